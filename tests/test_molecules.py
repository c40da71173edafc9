"""Molecules as people write them: read as one, told apart or said to be alike, never on both sides."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from metalens import MetaLensError, MetaRegressor, TableTasks
from metalens.data import morgan_fingerprints
from metalens.data.tables.molecules import are_molecules, molecule_keys

pytest.importorskip("rdkit")
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))


def table(molecules, n_tasks=4):
    """Each molecule in each task."""
    frame = pd.DataFrame({"assay": np.repeat([f"a{i}" for i in range(n_tasks)], len(molecules))})
    frame["molecule"] = molecules * n_tasks
    return frame.assign(activity=np.arange(len(frame)) * 0.5)


def tasks_of(frame, **settings):
    roles = {"task": "assay", "target": "activity", "smiles": "molecule", "splits": (0.5, 0.25, 0.25)}
    return TableTasks(frame, **roles | {"k_shot": 2, "n_query": 2} | settings)


CHAIN = ["CO", "CCN", "CCCF", "c1ccccc1", "CC(=O)C", "CSC", "C1CCCC1", "CC#N"]


# Cells


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("CC(=O) Oc1ccccc1C(=O)O", "has a blank, after which RDKit would read a name"),
        ("CCO ethanol", "has a blank, after which RDKit would read a name"),
        ("CCO\tCHEMBL545", "has a blank, after which RDKit would read a name"),
        ("C C O", "has a blank, after which RDKit would read a name"),
        ("", "is empty"),
        ("   ", "is empty"),
        ("no molecule", "has a blank, after which RDKit would read a name"),
        ("aspirin", "is none that RDKit can read"),
        ("C1CC", "is none that RDKit can read"),
        ("F(C)(C)C", "is none that RDKit can read"),
    ],
)
def test_cells_that_are_no_molecule_are_refused_by_row(cell, why):
    with pytest.raises(MetaLensError, match=f"is no molecule, as it {why}; correct it"):
        morgan_fingerprints(["CCO", cell])
    frame = table(CHAIN)
    frame.loc[6, "molecule"] = cell
    with pytest.raises(MetaLensError, match=r"(row|Row) 7 of column molecule"):
        tasks_of(frame)
    with pytest.warns(UserWarning, match=r"1 of the 32 rows have .* \(molecule 1\) and are left out"):
        tasks_of(frame, missing="drop")


@pytest.mark.parametrize("cell", [" CCO", "CCO  ", "\tCCO\n", "CCO |(0,0,;1,0,;2,0,)|", "\u00a0CCO"])
def test_blanks_at_ends_and_coordinates_change_nothing(cell):
    one, other = morgan_fingerprints(["CCO", cell])
    np.testing.assert_array_equal(one, other)
    assert are_molecules(pd.Series([cell, None])).tolist() == [True, False]


# What fingerprints tell apart


PAIRS = {
    "enantiomers": ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "chirality"),
    "several centers": ("C[C@H](O)[C@H](N)C", "C[C@H](O)[C@@H](N)C", "chirality"),
    "one without": ("CC(N)C(=O)O", "C[C@@H](N)C(=O)O", "chirality"),
    "chains": ("CCCCCCCCO", "CCCCCCCCCO", "count"),
    "longer chains": ("CCCCCCCCCCN", "CCCCCCCCCCCCN", "count"),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_different_molecules_of_one_fingerprint_are_said_once_and_told_apart(pair):
    one, other, setting = PAIRS[pair]
    frame = table([*CHAIN[:4], one, other])
    with pytest.warns(UserWarning, match=r"8 of the 24 rows have a molecule whose .* chirality=True") as told:
        tasks = tasks_of(frame)
    assert sum("fingerprint" in str(w.message) for w in told) == 1
    assert tasks.in_split("test").task_names  # says nothing again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tasks = tasks_of(frame, **{setting: True})
    assert not np.array_equal(tasks.inputs[4], tasks.inputs[5])
    bits = morgan_fingerprints([one, other], **{setting: True})
    assert (bits[0] != bits[1]).any()


def test_spellings_of_one_molecule_are_no_others(recwarn):
    tasks_of(table([*CHAIN, "OCC", "C(C)O"]))
    assert not recwarn.list


def test_counts_are_those_of_the_molecule():
    bits, counts = (morgan_fingerprints(["CCCC", ASPIRIN], count=count) for count in (False, True))
    np.testing.assert_array_equal(counts > 0, bits > 0)
    assert counts.max() > 1
    assert counts.dtype == np.uint8


@pytest.mark.slow
def test_a_model_keeps_its_kind_of_fingerprint(tmp_path):
    frame = table([*CHAIN[:6], *PAIRS["enantiomers"][:2]], n_tasks=16)
    settings = {
        "steps": 2,
        "hidden": [4],
        "k_shot": 3,
        "n_query": 3,
        "baselines": ["Ridge"],
        "fallback": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaRegressor(**settings)
        model.fit(frame, task="assay", target="activity", smiles="molecule", chirality=True, count=True)
    model.save(tmp_path / "model")
    support, query = frame[:6], pd.DataFrame({"molecule": PAIRS["enantiomers"][:2]})
    for one in (model, MetaRegressor.load(tmp_path / "model")):
        predicted = one.adapt(support[["molecule", "activity"]]).predict(query)
        assert predicted[0] != predicted[1]


# Both sides of a division


SAME = {
    "salt": ("CC(=O)Oc1ccccc1C(=O)O", "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"),
    "hydrochloride": ("CCN(CC)CCO", "CCN(CC)CCO.Cl"),
    "ion": ("NCC(=O)O", "[NH3+]CC(=O)[O-]"),
    "solvate": ("c1ccccc1CN", "c1ccccc1CN.O.O"),
    "spelling": ("OCCc1ccccc1", "c1ccc(cc1)CCO"),
    "stereo": ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"),
}


@pytest.mark.parametrize("same", SAME)
def test_forms_of_a_molecule_have_one_key(same):
    keys = molecule_keys(pd.Series([*SAME[same], "CCCCC"]))
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.filterwarnings("ignore:.*whose fingerprint is also that")
@pytest.mark.parametrize("same", SAME)
def test_forms_of_a_molecule_are_on_one_side_of_every_task(same):
    tasks = tasks_of(table([*CHAIN, *SAME[same]], n_tasks=8), k_shot=5, n_query=3)
    for of in tasks._rows:
        for seed in range(20):
            sides = [
                set((rows % 10).tolist()) & {8, 9} for rows in of.draw(np.random.default_rng(seed), 5, 3)
            ]
            assert not all(sides)


@pytest.mark.filterwarnings("ignore:.*whose fingerprint is also that", "ignore:.*are left out; lower k_shot")
@pytest.mark.parametrize("same", SAME)
def test_disjoint_splits_share_no_form_of_a_molecule(same):
    molecules = [*SAME[same], *CHAIN, "CCBr", "OCC=O", "CCOCC", "C1CC1"]
    settings = {"disjoint": "molecule", "k_shot": 1, "n_query": 1, "splits": (0.34, 0.33, 0.33)}
    frame, sides = table(molecules, n_tasks=12), []
    for split in ("train", "val", "test"):
        rows = np.concatenate([of.rows for of in tasks_of(frame, split=split, **settings)._rows])
        sides.append(set((rows % len(molecules)).tolist()) & {0, 1})
    assert sorted(map(len, sides)) == [0, 0, 2]
