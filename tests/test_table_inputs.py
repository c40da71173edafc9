"""Columns as inputs: numbers, words, empty cells, molecules."""

import sys

import numpy as np
import pandas as pd
import pytest
from small_table import small_table, tasks_of

from metalens import Kiba, MetaLensError, TableTasks, morgan_fingerprints
from metalens.data.catalog.assays import KIBA


@pytest.fixture
def table():
    return small_table()


def test_all_other_columns_are_inputs(table):
    frame = table.drop(columns="row")
    tasks = TableTasks(frame, task="assay", target="activity", splits="split", k_shot=4, n_query=3)
    assert tasks.encoding is not None
    assert tasks.encoding.names == ("half", "dose")
    assert tasks.input_shape == (2,)
    with pytest.raises(MetaLensError, match="no columns for inputs beside assay, activity, split"):
        TableTasks(frame[["assay", "activity", "split"]], task="assay", target="activity", splits="split")


def mixed(table, **columns):
    """The table with a column of words, of which a fourth is in test tasks only, and other columns."""
    words = np.array(["red", "blue", "white"])[table.row % 3].astype(object)
    words[(table.split == "test").to_numpy() & (table.row.to_numpy() % 5 == 0)] = "green"
    return table.assign(dye=words, **columns)


def encoded(frame, split="test", **changes):
    settings = {"inputs": ["half", "dye"], "k_shot": 4, "n_query": 8} | changes
    tasks = tasks_of(frame, split, **settings)
    return tasks, {name: np.concatenate([e.x[:, place] for e in tasks[0][:2]]) for place, name in enumerate(
        tasks.encoding.names)}  # fmt: skip


def test_words_are_inputs_by_the_categories_of_training_tasks(table):
    frame = mixed(table)
    tasks, inputs = encoded(frame)
    assert list(inputs) == ["half", "dye=blue", "dye=red", "dye=white"]
    of_task = frame[frame.assay == tasks.task_name(0)]
    assert "green" in set(of_task.dye)
    for word in ("blue", "red", "white"):
        assert inputs[f"dye={word}"].sum() == (of_task.dye == word).sum()
    train = tasks_of(frame, inputs=["half", "dye"], missing="mean").encoding
    assert train == tasks_of(frame, "test", inputs=["half", "dye"], missing="mean").encoding


def test_numbers_can_be_categories(table):
    changes = {"inputs": ["sex"], "categorical": ["sex"]}
    with pytest.raises(MetaLensError, match="duplicates='allow'"):
        encoded(table.assign(sex=table.row % 2), **changes, duplicates="together")
    _, inputs = encoded(table.assign(sex=table.row % 2), **changes, duplicates="allow")
    assert list(inputs) == ["sex=0", "sex=1"]
    assert (inputs["sex=0"] + inputs["sex=1"] == 1).all()


def test_too_many_words_are_no_categories(table):
    frame = pd.concat([table] * 3, ignore_index=True)
    frame["label"] = [f"sample {number}" for number in range(len(frame))]
    with pytest.raises(MetaLensError, match="Column label holds 216 different words, too many"):
        tasks_of(frame, inputs=["label"])
    assert len(tasks_of(frame, inputs=["label"], categorical=["label"]).encoding.names) == 216


def test_missing_cells_are_refused_filled_or_left_out(table):
    half = table.half.where(table.row % 4 > 0)
    frame = mixed(table, half=half)
    frame.loc[frame.row % 6 == 1, "dye"] = None
    with pytest.raises(MetaLensError, match=r"Row \d+ of column half is empty, .*fill it, or set missing"):
        encoded(frame)
    tasks, inputs = encoded(frame, missing="mean")
    known = frame[frame.split == "train"].half
    assert list(inputs)[:2] == ["half", "half is missing"]
    of_task = frame[frame.assay == tasks.task_name(0)].half
    expected = ((of_task - known.mean()) / known.std(ddof=0)).fillna(0)
    np.testing.assert_allclose(sorted(inputs["half"]), sorted(expected), rtol=1e-4, atol=1e-6)
    assert inputs["half is missing"].sum() == of_task.isna().sum()
    assert (inputs["half"][inputs["half is missing"] == 1] == 0).all()
    with pytest.warns(UserWarning, match=r"of the 120 rows have an empty cell \(half 30, dye 20\)"):
        tasks, _ = encoded(frame, missing="drop", k_shot=2, n_query=3)
    assert tasks.metadata()["rows"] < 24
    empty = frame.assign(activity=frame.activity.where(frame.row != 97))
    with pytest.raises(MetaLensError, match="of column activity is empty, the first of 1; leave the row out"):
        encoded(empty, missing="mean")
    with pytest.warns(UserWarning, match="activity 1"):
        encoded(empty, missing="drop", k_shot=2, n_query=3)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fingerprints"


def no_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)


def test_fingerprints_are_those_of_rdkit_and_kept(own_cache, monkeypatch):
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed; pip install 'metalens[chem]'")
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    molecules = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1"]
    bits = morgan_fingerprints(molecules, n_bits=256)
    for row, text in zip(bits, molecules, strict=True):
        on = GetMorganGenerator(radius=2, fpSize=256).GetFingerprint(chem.MolFromSmiles(text)).GetOnBits()
        assert np.flatnonzero(row).tolist() == list(on)
    (kept,) = own_cache.iterdir()
    no_rdkit(monkeypatch)
    np.testing.assert_array_equal(morgan_fingerprints(molecules, n_bits=256), bits)
    with pytest.raises(MetaLensError, match=r"rdkit is not installed; run pip install 'metalens\[chem\]'"):
        morgan_fingerprints(molecules, n_bits=128)
    monkeypatch.undo()
    monkeypatch.setenv("METALENS_CACHE", str(own_cache.parent))
    kept.write_bytes(b"damage")
    np.testing.assert_array_equal(morgan_fingerprints(molecules, n_bits=256), bits)


def test_what_is_no_molecule_is_refused(own_cache):
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    with pytest.raises(MetaLensError, match=r"'not one' is no molecule, as .* nor are 1 others"):
        morgan_fingerprints(["CCO", "not one", "neither"])
    assert not own_cache.exists()
    with pytest.raises(MetaLensError, match="n_bits of at least 1"):
        morgan_fingerprints(["CCO"], n_bits=0)


@pytest.mark.usefixtures("own_cache")
def test_missing_rdkit_and_missing_data_are_one_sentence(tmp_path, monkeypatch):
    no_rdkit(monkeypatch)
    with pytest.raises(MetaLensError, match=r"pip install 'metalens\[chem\]'"):
        morgan_fingerprints(["CCO"])
    with pytest.raises(MetaLensError, match=r"kiba is not in .*; from http.*, write kiba_kinases.csv.gz"):
        Kiba(folder=tmp_path)
    monkeypatch.delenv("METALENS_DATA", raising=False)
    with pytest.raises(
        MetaLensError, match="kiba is not in any folder, as METALENS_DATA names none; from http"
    ):
        Kiba()
    (tmp_path / KIBA.files[0]).write_bytes(b"no gzip")
    with pytest.raises(MetaLensError, match="is damaged or not the table of KIBA"):
        Kiba(folder=tmp_path)
