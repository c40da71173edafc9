"""Tasks from tables: on small synthetic ones, and on KIBA where it is."""

import hashlib
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import MAML, Kiba, MetaLensError, Sinusoid, TableTasks, evaluate, mlp, morgan_fingerprints
from metalens.distributions import fingerprints
from metalens.distributions.kiba import FILE, load_kiba
from metalens.distributions.table import hashed_order
from metalens.evaluation import squared_correlation, task_metrics

NAMES = [f"assay{number}" for number in range(10)]
ROWS = 12


@pytest.fixture
def table():
    """Ten tasks of twelve rows; `row` numbers all rows, and input and target are functions of it."""
    row = np.random.default_rng(0).permutation(len(NAMES) * ROWS)
    frame = pd.DataFrame({"assay": np.array(NAMES)[row // ROWS], "row": row})
    frame["split"] = np.select([row // ROWS < 6, row // ROWS < 8], ["train", "val"], "test")
    return frame.assign(half=row / 2.0, dose=np.sqrt(row), activity=np.sin(row) + row // ROWS)


def tasks_of(table, split="train", **changes):
    settings = {"task": "assay", "target": "activity", "inputs": table[["row"]].to_numpy()}
    settings |= {"splits": "split", "k_shot": 4, "n_query": 3, "standardize": "none"}
    return TableTasks(table, split, **(settings | changes))


def rows_of(examples):
    return examples.x[..., 0].long().numpy()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_bulk_equals_single_in_any_order(table, split):
    tasks, numbers = tasks_of(table, split), [9, 0, 31, 9]
    bulk = tasks.batch(numbers)
    for place, number in enumerate(numbers):
        for many, one in zip(bulk, tasks_of(table, split)[number], strict=True):
            assert torch.equal(many.x[place], one.x)
            assert torch.equal(many.y[place], one.y)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_has_different_rows_of_one_task_of_the_table(table, split):
    tasks = tasks_of(table, split)
    for number in range(20):
        task = tasks[number]
        rows = np.concatenate([rows_of(examples) for examples in task])
        assert len(set(rows)) == 7
        assert {NAMES[row // ROWS] for row in rows} == {tasks.task_name(number)}
        y = torch.cat([examples.y for examples in task]).flatten()
        np.testing.assert_allclose(y, np.sin(rows) + rows // ROWS, rtol=1e-6)


def test_training_goes_through_all_tasks_in_a_new_order_each_time(table):
    tasks = tasks_of(table)
    rounds = [[tasks.task_name(6 * number + i) for i in range(6)] for number in range(4)]
    assert all(sorted(names) == NAMES[:6] for names in rounds)
    assert len(set(map(tuple, rounds))) == 4
    first, again = (tasks[rounds[0].index("assay3")], tasks[6 + rounds[1].index("assay3")])
    assert set(rows_of(first.support)) != set(rows_of(again.support))


def test_held_out_tasks_come_in_the_order_of_their_names(table):
    tasks = tasks_of(table, "test")
    assert tasks.task_names == ("assay8", "assay9")
    assert [tasks.task_name(i) for i in range(3)] == ["assay8", "assay9", "assay8"]
    assert not torch.equal(tasks[0].support.x, tasks[2].support.x)


def test_the_seed_decides_the_rows_and_not_the_splits(table):
    shares = {"splits": (0.5, 0.2, 0.3)}
    one, other = (tasks_of(table, "test", seed=seed, **shares) for seed in (0, 1))
    assert one.task_names == other.task_names
    assert not torch.equal(one[0].support.x, other[0].support.x)


def test_shares_divide_the_tasks_by_their_hashed_names(table):
    order = sorted(NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert hashed_order(NAMES) == order
    parts = {split: tasks_of(table, split, splits=(0.5, 0.2, 0.3)).task_names for split in ("val", "test")}
    assert parts == {"val": tuple(sorted(order[:2])), "test": tuple(sorted(order[2:5]))}
    train = tasks_of(table, "train", splits=(0.5, 0.2, 0.3)).task_names
    assert train == tuple(sorted(order[5:]))


@pytest.mark.parametrize("split", ["train", "test"])
def test_columns_are_standardized_by_the_training_tasks(table, split):
    changes = {"inputs": ["half", "dose"], "standardize": "train", "k_shot": 9}
    tasks = tasks_of(table, split, **changes)[0]
    train = table[table.split == "train"]
    by_target = {y: (x1, x2) for y, x1, x2 in table[["activity", "half", "dose"]].to_numpy()}
    for examples in tasks:
        y = examples.y.flatten().double().numpy() * train.activity.std(ddof=0) + train.activity.mean()
        for x, value in zip(examples.x.numpy(), y, strict=True):
            nearest = min(by_target, key=lambda target: abs(target - value))
            expected = (np.array(by_target[nearest]) - train[["half", "dose"]].mean()) / train[
                ["half", "dose"]
            ].std(ddof=0)
            assert nearest == pytest.approx(value, abs=1e-5)
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_targets_can_be_standardized_within_their_task(table):
    task = tasks_of(table, "test", standardize="task", k_shot=9)[0]
    y = torch.cat([examples.y for examples in task])
    assert y.mean().item() == pytest.approx(0, abs=1e-6)
    assert y.std(unbiased=False).item() == pytest.approx(1, rel=1e-5)


def test_fewer_training_tasks_decide_the_statistics_too(table):
    few = tasks_of(table, n_train_tasks=2, seed=3)
    assert len(few.task_names) == 2
    assert set(few.task_names) < set(NAMES[:6])
    chosen = {tasks_of(table, n_train_tasks=2, seed=seed).task_names for seed in range(8)}
    assert len(chosen) > 1
    test = tasks_of(table, "test", n_train_tasks=2, seed=3, standardize="train", k_shot=9)
    assert test.task_names == ("assay8", "assay9")
    known = table[table.assay.isin(few.task_names)].activity
    rows = np.concatenate([rows_of(examples) for examples in test[0]])
    y = torch.cat([examples.y for examples in test[0]]).flatten()
    expected = (np.sin(rows) + rows // ROWS - known.mean()) / known.std(ddof=0)
    np.testing.assert_allclose(y, expected, rtol=1e-4)


def test_a_file_is_a_table(table, tmp_path):
    path = tmp_path / "table.csv.gz"
    table.to_csv(path, index=False)
    read = TableTasks(
        path, task="assay", target="activity", inputs=["row"], splits="split", k_shot=4, n_query=3
    )  # fmt: skip
    torch.testing.assert_close(read[5], tasks_of(table, inputs=["row"], standardize="train")[5])


def test_ready_made_inputs_keep_their_shape_and_are_not_standardized(table):
    images = torch.arange(len(table) * 6, dtype=torch.uint8).view(len(table), 2, 3)
    x = tasks_of(table, inputs=images)[0].support.x
    assert (x.shape, x.dtype) == ((4, 2, 3), torch.float32)
    assert (x == x.round()).all()


def test_small_tasks_are_left_out_with_a_warning(table):
    smaller = table[(table.assay != "assay8") | (table.row % ROWS < 6)]
    with pytest.warns(UserWarning, match=r"1 of the 2 tasks of the test split have fewer than .* = 7 rows"):
        tasks = tasks_of(smaller, "test")
    assert tasks.task_names == ("assay9",)
    assert tasks.facts() == {"tasks": 1, "rows": ROWS}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "assays"}, "The table has no column assays; it has assay, row, split"),
        ({"target": "assay"}, "Column assay must hold finite numbers"),
        ({"inputs": ["dose", "mass"]}, "The table has no column mass"),
        ({"inputs": np.zeros((3, 2))}, "one entry for each of the 120 rows, got 3"),
        ({"splits": "assay"}, "in one split, train, val or test, but those of assay0 are in assay0"),
        ({"splits": (0.5, 0.2)}, r"three shares that add up to 1, got \[0.5, 0.2\]"),
        ({"splits": (1.0, 0.0, 0.0), "split": "val"}, "The val split has 0 tasks"),
        ({"k_shot": 10}, r"none with k_shot \+ n_query = 13 rows"),
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_train_tasks": 7}, "n_train_tasks must be at most 6"),
        ({"standardize": "all"}, "standardize must be one of train, task, none, got 'all'"),
    ],
)
def test_wrong_settings_are_refused(table, changes, words):
    with pytest.raises(MetaLensError, match=words):
        tasks_of(table, **changes)


def test_a_damaged_file_and_numbers_that_are_none_are_refused(table, tmp_path):
    (tmp_path / "table.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(MetaLensError, match=r"Cannot read .* as a table"):
        TableTasks(tmp_path / "table.csv.gz", task="assay", target="activity", inputs=["row"])
    with pytest.raises(MetaLensError, match="Column activity must hold finite numbers"):
        tasks_of(table.assign(activity=table.activity.where(table.row > 0)))
    with pytest.raises(MetaLensError, match="Column assay must name a task in all rows"):
        tasks_of(table.assign(assay=table.assay.where(table.row > 0)))
    with pytest.raises(MetaLensError, match="those of assay0 are in test, train"):
        tasks_of(table.assign(split=table.split.where(table.row > 0, "test")))
    with pytest.raises(MetaLensError, match="Task numbers must be 0 or more"):
        tasks_of(table).batch([-1])


def test_squared_correlation_is_that_of_numpy():
    rng = np.random.default_rng(0)
    predictions, y = rng.standard_normal((2, 4, 9, 2))
    expected = [
        np.mean([np.corrcoef(p[:, c], t[:, c])[0, 1] ** 2 for c in range(2)])
        for p, t in zip(predictions, y, strict=True)
    ]
    ours = squared_correlation(torch.from_numpy(predictions), torch.from_numpy(y))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_constants_explain_nothing_and_divergence_is_no_score():
    y = torch.tensor([[[1.0], [2.0], [4.0]]])
    assert squared_correlation(torch.full_like(y, 3.0), y).tolist() == [0.0]
    assert squared_correlation(y, torch.full_like(y, 3.0)).tolist() == [0.0]
    assert squared_correlation(y / 0, y).isnan().all()
    assert list(task_metrics(y, y, ["r2"])) == ["mse", "r2"]


def test_tables_are_scored_by_correlation_too(table):
    learner = MAML(mlp(1, 1, [4]), inner_lr=1e-4)
    rows = evaluate(learner, tasks_of(table, "test"), n_tasks=2)
    assert rows.metric.tolist() == ["mse", "mse", "r2", "r2"]
    assert evaluate(learner, Sinusoid("test"), n_tasks=2).metric.tolist() == ["mse", "mse"]


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
    with pytest.raises(MetaLensError, match="need RDKit"):
        morgan_fingerprints(molecules, n_bits=128)
    monkeypatch.undo()
    monkeypatch.setenv("METALENS_CACHE", str(own_cache.parent))
    kept.write_bytes(b"damage")
    np.testing.assert_array_equal(morgan_fingerprints(molecules, n_bits=256), bits)


def test_what_is_no_molecule_is_refused(own_cache):
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    with pytest.raises(MetaLensError, match="cannot read the molecule 'not one'"):
        morgan_fingerprints(["CCO", "not one"])
    assert not own_cache.exists()
    with pytest.raises(MetaLensError, match="n_bits of at least 1"):
        morgan_fingerprints(["CCO"], n_bits=0)


@pytest.mark.usefixtures("own_cache")
def test_missing_rdkit_and_missing_data_are_one_sentence(tmp_path, monkeypatch):
    no_rdkit(monkeypatch)
    with pytest.raises(MetaLensError, match=r"pip install 'metalens\[chem\]'"):
        morgan_fingerprints(["CCO"])
    with pytest.raises(MetaLensError, match="does not; set METALENS_DATA"):
        Kiba(folder=tmp_path)
    monkeypatch.delenv("METALENS_DATA", raising=False)
    with pytest.raises(MetaLensError, match="METALENS_DATA names no folder"):
        Kiba()
    (tmp_path / FILE).write_bytes(b"no gzip")
    with pytest.raises(MetaLensError, match="is damaged or not the table of KIBA"):
        Kiba(folder=tmp_path)


@pytest.fixture
def kiba_folder(data_folder):
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    if not (data_folder / "tables" / FILE).is_file():
        pytest.skip(f"no KIBA in {data_folder}; set METALENS_DATA")
    return data_folder


def test_kiba_has_three_splits_without_a_common_kinase(kiba_folder):
    splits = {split: Kiba(split, folder=kiba_folder) for split in ("train", "val", "test")}
    assert [len(tasks.task_names) for tasks in splits.values()] == [110, 20, 20]
    names = [name for tasks in splits.values() for name in tasks.task_names]
    assert len(set(names)) == 150
    file = pd.read_csv(kiba_folder / "tables" / FILE)
    given = set(file.kinase[file.split == "train"])
    assert set(splits["test"].task_names) == set(hashed_order(given)[:20])
    y = Kiba(folder=kiba_folder)._y[np.concatenate(Kiba(folder=kiba_folder)._rows)]
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std().item() == pytest.approx(1, abs=1e-3)


def test_kiba_molecules_are_their_fingerprints(kiba_folder):
    table, bits = load_kiba(kiba_folder)
    rows = np.random.default_rng(0).integers(len(table), size=5)
    expected = fingerprints._compute(table.smiles.iloc[rows].tolist(), 1024, 2)
    np.testing.assert_array_equal(bits[rows], expected)
    task = Kiba("val", folder=kiba_folder)[3]
    assert (task.support.x.shape, task.query.y.shape) == ((16, 1024), (15, 1))
