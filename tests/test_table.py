"""Tasks from tables: on small synthetic ones, and on KIBA where it is."""

import hashlib
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score

from metalens import (
    MAML,
    Kiba,
    MetaLensError,
    Ridge,
    Sinusoid,
    TableTasks,
    evaluate,
    mlp,
    morgan_fingerprints,
)
from metalens.distributions.splits import divided, hashed_order
from metalens.distributions.tables import fingerprints, reading
from metalens.distributions.tables.kiba import FILE, load_kiba
from metalens.distributions.tables.rows import TaskRows
from metalens.evaluation import skill, squared_correlation, task_metrics

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
    assert tasks.facts() == {"tasks": 1, "rows": ROWS, "target_mean": 0.0, "target_deviation": 1.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "assays"}, "The table has no column assays; it has assay, row, split"),
        ({"target": "assay"}, "Column assay is the target and has another role too; name two columns"),
        ({"inputs": ["dose", "mass"]}, "The table has no column mass"),
        ({"inputs": np.zeros((3, 2))}, "one entry for each of the 120 rows, got 3"),
        ({"splits": "assay"}, "in one split, train, val or test, but those of assay0 are in assay0"),
        ({"splits": (0.5, 0.2)}, r"three shares that add up to 1, got \[0.5, 0.2\]"),
        ({"splits": (1.0, 0.0, 0.0), "split": "val"}, "The val split has 0 tasks"),
        ({"k_shot": 10}, r"none with k_shot \+ n_query = 13 rows"),
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_train_tasks": 7}, "n_train_tasks must be at most 6"),
        ({"n_query": 0}, "n_query must be at least 1, got 0"),
        ({"kind": "ranking"}, "kind must be one of auto, regression, classification"),
        ({"missing": "guess"}, "missing must be one of refuse, mean, drop"),
        ({"duplicates": "no"}, "duplicates must be one of together, refuse, allow"),
        ({"inputs": []}, "inputs must name at least one column"),
        ({"inputs": ["dose", "activity"]}, "inputs must not name the task or the target, got activity"),
        ({"inputs": ["dose"], "categorical": ["half"]}, "categorical names half, which is not among"),
        ({"smiles": "assay"}, "Give ready-made inputs or smiles, got both"),
        (
            {"stratify": "row", "splits": (0.5, 0.2, 0.3)},
            "Column row must say the same in all rows of a task",
        ),
        ({"traits": ["row"]}, "to be used as traits, but those of assay0 say"),
        ({"roles": "split"}, "of column split must say support or query, got 't"),
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
    empty = int(table.index[table.row == 0][0]) + 1
    with pytest.raises(
        MetaLensError, match=f"Row {empty} of column activity is empty, the first of 1; leave"
    ):
        tasks_of(table.assign(activity=table.activity.where(table.row > 0)))
    with pytest.raises(MetaLensError, match=f"Row {empty} of column assay is empty"):
        tasks_of(table.assign(assay=table.assay.where(table.row > 0)))
    with pytest.raises(MetaLensError, match="those of assay0 are in test, train"):
        tasks_of(table.assign(split=table.split.where(table.row > 0, "test")))
    with pytest.raises(MetaLensError, match="Task numbers must be 0 or more"):
        tasks_of(table).batch([-1])


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
    return tasks, {name: np.concatenate([e.x[:, place] for e in tasks[0]]) for place, name in enumerate(
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
        encoded(table.assign(sex=table.row % 2), **changes)
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
    assert tasks.facts()["rows"] < 24
    empty = frame.assign(activity=frame.activity.where(frame.row != 97))
    with pytest.raises(MetaLensError, match="of column activity is empty, the first of 1; leave the row out"):
        encoded(empty, missing="mean")
    with pytest.warns(UserWarning, match="activity 1"):
        encoded(empty, missing="drop", k_shot=2, n_query=3)


@pytest.mark.parametrize(
    ("value", "words"),
    [("n/b", "Row 8 of column half must be a number, got 'n/b'"), (np.inf, "a finite number, got 'inf'")],
)  # fmt: skip
def test_a_wrong_cell_is_named(table, tmp_path, value, words):
    frame = table.astype({"half": object})
    frame.loc[7, "half"] = value
    frame.to_csv(tmp_path / "table.csv", index=False)
    for source in (frame, tmp_path / "table.csv"):
        with pytest.raises(MetaLensError, match=words):
            TableTasks(source, task="assay", target="activity", inputs=["half", "dose"], splits="split",
                       n_query=2)  # fmt: skip
    with pytest.raises(MetaLensError, match="but row 8 is not"):
        tasks_of(table, inputs=np.where(np.arange(120) == 7, np.nan, 1.0)[:, None])


@pytest.mark.parametrize("q", [3, None])
def test_a_group_is_never_on_both_sides(table, q):
    frame = table.assign(scan=table.row // 3 % 4)
    tasks = tasks_of(frame, "test", group="scan", n_query=q)
    for number in range(40):
        sides = [set(rows_of(examples) // 3) for examples in tasks[number]]
        assert not sides[0] & sides[1]
        assert len(tasks[number].support.x) == 4
        assert len(tasks[number].query.x) == (q or 6)


def test_uneven_groups_are_divided_wherever_that_is_possible():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = rng.integers(1, 9, rng.integers(1, 6))
        units = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        k, q = rng.integers(1, 9, 2).tolist()
        parts = [sum(part) for n in range(len(sizes) + 1) for part in combinations(sizes.tolist(), n)]
        rows = TaskRows(np.arange(len(units)), units)
        assert rows.is_enough(k, q) == any(k <= part <= len(units) - q for part in parts)
        if rows.is_enough(k, q):
            support, query = rows.draw(rng, k, q)
            assert (len(set(support)), len(set(query))) == (k, q)
            assert not set(units[support]) & set(units[query])


def test_rows_that_cannot_be_divided_by_groups_are_left_out(table):
    frame = table.assign(scan=np.where(table.assay == "assay8", 0, table.row))
    with pytest.warns(UserWarning, match="1 of the 2 tasks of the test split"):
        assert tasks_of(frame, "test", group="scan").task_names == ("assay9",)


def test_duplicates_stay_on_one_side_or_are_refused(table):
    twins = table[["row"]].to_numpy() // 2
    for number in range(30):
        sides = [set(rows_of(examples)) for examples in tasks_of(table, "test", inputs=twins)[number]]
        assert not sides[0] & sides[1]
    with pytest.raises(MetaLensError, match=r"Rows \d+ and \d+ of task assay0 have the same inputs, .* 60"):
        tasks_of(table, inputs=twins, duplicates="refuse")
    allowed = [tasks_of(table, "test", inputs=twins, duplicates="allow")[number] for number in range(30)]
    assert any(set(rows_of(task.support)) & set(rows_of(task.query)) for task in allowed)
    chain = {"group": "scan", "k_shot": 1, "n_query": 2}  # a row is linked with the next, by one or the other
    with pytest.raises(
        MetaLensError, match=r"none with k_shot \+ n_query = 3 rows or more that can be divided"
    ):
        tasks_of(table.assign(scan=(table.row + 1) // 2), "test", inputs=twins, **chain)


def test_a_published_division_into_support_and_query_is_kept(table):
    frame = table.assign(part=np.where(table.row % 2, "support", "query"))
    for number in range(10):
        support, query = tasks_of(frame, "test", roles="part", n_query=None)[number]
        assert (rows_of(support) % 2 == 1).all()
        assert sorted(rows_of(query) % 2) == [0] * 6
    with pytest.raises(MetaLensError, match=r"Rows \d+, \d+ of task assay\d belong together"):
        tasks_of(frame, roles="part", inputs=table[["row"]].to_numpy() // 2)


def test_all_other_rows_can_be_asked_whatever_their_number(table):
    frame = table[(table.assay != "assay8") | (table.row % ROWS < 9)]
    tasks = tasks_of(frame, "test", n_query=None)
    assert [len(tasks[number].query.x) for number in range(4)] == [5, 8, 5, 8]
    with pytest.raises(MetaLensError, match="these have 5 to 8 query rows; set n_query, or use one task"):
        tasks.batch([0, 1])
    learner = Ridge(mlp(1, 1))
    scores = evaluate(learner, tasks, n_tasks=2).query("metric == 'mse'").value
    for number, score in enumerate(scores):
        support, query = tasks[number]
        errors = learner(support)(query.x) - query.y
        assert score == pytest.approx(errors.square().mean().item(), rel=1e-5)


def test_strata_are_divided_evenly():
    names = [f"task{number}" for number in range(100)]
    strata = {name: "common" if number < 60 else f"rare{number % 8}" for number, name in enumerate(names)}
    split_of = divided(names, (0.6, 0.1, 0.3), strata=strata)
    count = pd.Series(split_of).value_counts().to_dict()
    assert count == {"train": 60, "test": 30, "val": 10}
    common = pd.Series({name: split_of[name] for name in names[:60]}).value_counts()
    assert common.to_dict() == {"train": 36, "test": 18, "val": 6}
    other = divided(names, (0.6, 0.1, 0.3), strata=strata, seed=1)
    assert other != split_of
    assert pd.Series(other).value_counts().to_dict() == count


def test_tasks_are_divided_evenly_by_a_column_and_anew_by_a_seed(table):
    frame = table.assign(species=np.where(table.row // ROWS < 4, "mouse", "yeast"))
    parts = [
        tasks_of(frame, "test", splits=(0.5, 0.0, 0.5), stratify="species", split_seed=seed).task_names
        for seed in (None, 0, 1, 2)
    ]
    assert all(sum(name in NAMES[:4] for name in part) == 2 for part in parts)
    assert len(set(parts)) > 1


def test_splits_share_no_value_of_a_disjoint_column(table):
    frame = pd.concat([table] * 6, ignore_index=True)
    frame["molecule"] = [f"m{number % 40}" for number in np.random.default_rng(1).permutation(len(frame))]
    frame["row"] = np.arange(len(frame))
    seen = {}
    for split in ("train", "val", "test"):
        tasks = tasks_of(frame, split, disjoint="molecule", n_query=None)
        rows = [rows_of(examples) for number in range(6) for examples in tasks[number]]
        seen[split] = set(frame.molecule[np.concatenate(rows)])
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 40
    assert len(seen["train"]) == 20


def test_traits_are_properties_of_tasks(table):
    frame = table.assign(species=np.where(table.row // ROWS % 2, "yeast", "mouse"), year=table.row // ROWS)
    tasks = tasks_of(frame, "test", traits=["species", "year"])
    traits = tasks.batch([0, 1, 2]).traits
    year = np.arange(6)
    expected = [[1, 0, (8 - year.mean()) / year.std()], [0, 1, (9 - year.mean()) / year.std()]]
    np.testing.assert_allclose(traits, [*expected, expected[0]], rtol=1e-6)
    assert torch.equal(tasks[1].traits, traits[1])


def classified(table, **changes):
    """The tasks with classes: rare ones of three words; assay9 lacks one of them."""
    words = np.array(["inactive"] * 8 + ["active"] * 3 + ["toxic"])[table.row % ROWS]
    words = np.where((table.assay == "assay9") & (words == "toxic"), "active", words)
    return tasks_of(table.assign(outcome=words), "test", target="outcome", **changes)


@pytest.mark.parametrize("group", [None, "pair"])
def test_words_are_classes_that_mean_the_same_in_all_tasks(table, group):
    tasks = classified(table.assign(pair=table.row), group=group)
    assert tasks.class_names == ("active", "inactive", "toxic")
    assert tasks.n_outputs == tasks.n_classes == 3
    assert not tasks.further_metrics
    assert tasks.pooled() is tasks
    for number in range(30):
        task = tasks[number]
        for examples in task:
            assert examples.y.dtype == torch.int64
            place = rows_of(examples) % ROWS
            expected = np.where(
                place < 8, 1, np.where((place < 11) | (tasks.task_name(number) == "assay9"), 0, 2)
            )
            np.testing.assert_array_equal(examples.y, expected)
        assert set(task.support.y.tolist()) == ({0, 1, 2} if number % 2 == 0 else {0, 1})
        assert len(set(rows_of(task.support)) | set(rows_of(task.query))) == 7
    assert set(evaluate(Ridge(mlp(1, 3)), tasks, n_tasks=2).metric) == {"accuracy", "loss"}


def test_classes_that_a_model_knows_keep_their_outputs(table):
    tasks = classified(table, classes=["toxic", "unknown", "active", "inactive"])
    assert tasks.class_names == ("toxic", "unknown", "active", "inactive")
    assert tasks.n_outputs == 4
    task = tasks[0]
    place = rows_of(task.query) % ROWS
    np.testing.assert_array_equal(task.query.y, np.where(place < 8, 3, np.where(place < 11, 2, 0)))
    with pytest.raises(
        MetaLensError, match=r"Row \d+ of column outcome must be one of the classes active, ina"
    ):
        classified(table, classes=["active", "inactive"])


def test_kinds_of_targets(table):
    frame = table.assign(hit=table.row % 2, truth=table.row % 2 == 0, same="yes")
    assert tasks_of(frame, target="hit").class_names == ()
    assert tasks_of(frame, target="hit", kind="classification").class_names == ("0", "1")
    assert tasks_of(frame, target="truth").class_names == ("False", "True")
    with pytest.raises(MetaLensError, match="Column same names one class, yes, in all rows"):
        tasks_of(frame, target="same")


def test_what_was_done_to_targets_is_known(table):
    tasks = tasks_of(table, "test", standardize="train")
    known = table[table.split == "train"].activity
    assert tasks.target_mean == pytest.approx(known.mean())
    assert tasks.target_deviation == pytest.approx(known.std(ddof=0))
    assert tasks.facts()["target_mean"] == tasks.target_mean


def test_names_that_look_like_numbers_stay_names(table, tmp_path):
    table.assign(assay=[f"00{name[5:]}" for name in table.assay]).to_csv(tmp_path / "a.csv", index=False)
    tasks = TableTasks(
        tmp_path / "a.csv", "test", task="assay", target="activity", splits="split", k_shot=4, n_query=3
    )
    assert tasks.task_names == ("008", "009")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; give a CSV file with a header and rows"),
        (b"assay,activity,x\n", "has no rows"),
        ("assay,activity\nKöln,1\n".encode("latin-1"), "is not in UTF-8 .*; save it as a CSV"),
        (b"assay,activity\na,1\na,1,2,3\n", r"Cannot read .* line 3, saw 4\); correct that line"),
        (b"activity,x\n1,2\n", "The table has no column assay; it has activity, x"),
        (
            b"assay;activity;x\na;1,5;2\n",
            "has ';' between its columns; save it with commas there, and points",
        ),
        (b"assay\tactivity\na\t1\n", r"has '\\t' between its columns"),
        (b"assay,activity,x, x \na,1,2,3\n", "has several columns named x; rename them"),
        (b"assay,activity,x\na,1,2,3\nb,1,2,3\n", "has rows with more cells than its header has names"),
        (b"\x89PNG\r\n", "is not in UTF-8 .*; save it as a CSV file in UTF-8"),
        ("assay,activity\na,1\n".encode("utf-16"), "is not in UTF-8"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, content, words):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(MetaLensError, match=words):
        TableTasks(tmp_path / "table.csv", task="assay", target="activity")


def test_spaces_and_byte_order_marks_do_not_count_and_nameless_columns_are_left_out(table, tmp_path):
    expected = TableTasks(table, task="assay", target="activity", splits="split", k_shot=4, n_query=3)
    table.to_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes().replace(b",", b", ").replace(b"\n", b" \r\n")
    )
    for name in ("a.csv", "b.csv"):
        with pytest.warns(
            UserWarning, match=r"1 of the 7 columns of .* \(the first is column 1\) and are left"
        ):
            tasks = TableTasks(
                tmp_path / name, task="assay", target="activity", splits="split", k_shot=4, n_query=3
            )
        assert tasks.encoding == expected.encoding
        torch.testing.assert_close(tasks[3], expected[3])
    numbered = table[["assay", "activity", "half"]].rename(columns={"half": 0})
    tasks = TableTasks(numbered, task="assay", target="activity", k_shot=4, n_query=3)
    assert tasks.encoding.names == ("0",)


def test_numbers_that_are_written_otherwise_are_no_words(table, tmp_path):
    few = table.assign(half=(table.row % 7).astype(str) + ",5")
    with pytest.raises(
        MetaLensError, match=r"Row \d+ of column half must be a number, .*; write numbers with"
    ):
        tasks_of(few, inputs=["half"])
    table.assign(activity=table.activity.round(3)).to_csv(tmp_path / "a.csv", index=False, decimal=",")
    with pytest.raises(
        MetaLensError, match=r"Row 1 of column activity must be a number, got '.*,.*'; write num"
    ):
        TableTasks(tmp_path / "a.csv", task="assay", target="activity", inputs=["half"])
    above = table.assign(activity=[f">{value}" for value in table.activity])
    with pytest.raises(MetaLensError, match="Column activity names 120 classes in 120 rows, such as '>"):
        tasks_of(above)
    assert tasks_of(above, kind="classification").n_classes == 120


def test_targets_that_never_differ_are_counted_or_refused(table):
    level = table.activity.where(table.assay != "assay3", 2.0)
    with pytest.warns(
        UserWarning, match=r"In 1 of the 6 tasks of the train split \(such as assay3\), activity"
    ):
        tasks_of(table.assign(activity=level))
    with pytest.warns(UserWarning, match="In 2 of the 2 tasks of the test split"):
        tasks_of(table.assign(activity=table.activity.where(table.split != "test", 1.0)), "test")
    with pytest.raises(
        MetaLensError, match="Within each training task, such as assay0, activity is the same"
    ):
        tasks_of(table.assign(activity=table.assay.str[5:].astype(float)))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zip"])
def test_damaged_files_and_decompression_bombs_are_refused(table, tmp_path, monkeypatch, name):
    settings = {"task": "assay", "target": "activity", "splits": "split", "k_shot": 4, "n_query": 3}
    path = tmp_path / name
    table.to_csv(path, index=False)
    TableTasks(path, **settings)
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:60] + bytes(60) + content[120:]):
        path.write_bytes(damaged)
        with pytest.raises(MetaLensError, match=r"Cannot read .* as a table|is empty"):
            TableTasks(path, **settings)
    pd.DataFrame({"assay": ["a" * 10**6]}).to_csv(path, index=False)
    monkeypatch.setattr(reading, "MAX_UNPACKED", 1000)
    with pytest.raises(
        MetaLensError, match=r"unpacks to more than .* and may be a decompression bomb; unpack"
    ):
        TableTasks(path, **settings)


def test_a_missing_file_and_equal_names_are_refused(table, tmp_path):
    with pytest.raises(MetaLensError, match=r"There is no file .*none.csv; correct the path"):
        TableTasks(tmp_path / "none.csv", task="assay", target="activity")
    twice = table.rename(columns={"dose": "half"})
    with pytest.raises(MetaLensError, match="The table has several columns named half"):
        TableTasks(twice, task="assay", target="activity")
    with pytest.raises(MetaLensError, match="Column day holds dates"):
        tasks_of(table.assign(day=pd.Timestamp("2020-01-01")), inputs=["day"])


def test_parquet_is_a_table_or_asks_for_its_reader(table, tmp_path, monkeypatch):
    settings = {"task": "assay", "target": "activity", "splits": "split", "k_shot": 4, "n_query": 3}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(MetaLensError, match=r"pip install 'metalens\[parquet\]'"):
        TableTasks(tmp_path / "table.parquet", **settings)
    monkeypatch.undo()
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'metalens[parquet]'")
    table.to_parquet(tmp_path / "table.parquet")
    read = TableTasks(tmp_path / "table.parquet", **settings)
    torch.testing.assert_close(read[3], TableTasks(table, **settings)[3])


def test_a_million_rows_are_tasks(tmp_path):
    n = 10**6
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"shop": rng.integers(1000, size=n), "day": rng.random(n), "sold": rng.random(n)})
    frame["kind"] = np.array(["a", "b"])[rng.integers(2, size=n)]
    tasks = TableTasks(frame, "test", task="shop", target="sold", k_shot=5, n_query=5)
    assert tasks.facts()["tasks"] == 150
    assert tasks.batch(range(150)).query.x.shape == (150, 5, 3)


def test_skill_is_the_coefficient_of_determination_and_bounded():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.normal(size=(3, 9, 1)))
    none, near = y[:, :0], y + torch.from_numpy(rng.normal(scale=0.5, size=y.shape))
    expected = [r2_score(true, told) for true, told in zip(y[..., 0], near[..., 0], strict=True)]
    np.testing.assert_allclose(skill(near, y, none), expected)
    np.testing.assert_allclose(skill(1e4 * near + 7, 1e4 * y + 7, none), expected)  # of any unit
    assert skill(y + 100, y, none).tolist() == [-1.0] * 3
    assert 0 < skill(y[:, :1], y[:, :1] + 0.1, y[:, 1:])[0] < 1  # one query has no variance of its own
    equal = torch.full_like(y, 0.1, dtype=torch.float32)
    assert skill(equal + 1, equal, equal).tolist() == [0.0] * 3
    near[1, 2] = torch.inf
    assert skill(near, y, none).isnan().tolist() == [False, True, False]


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
    constant = torch.full((1, 7, 1), 0.1, dtype=torch.float64)  # whose mean is not exactly 0.1
    assert squared_correlation(constant, torch.randn(1, 7, 1).double()).item() == 0
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
    with pytest.raises(MetaLensError, match="cannot read the molecule 'not one', nor 1 others; correct"):
        morgan_fingerprints(["CCO", "not one", "neither"])
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
    train = splits["train"]
    y = train._y[np.concatenate([task.rows for task in train._tasks])]
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std().item() == pytest.approx(1, abs=1e-3)


def test_kiba_molecules_are_their_fingerprints(kiba_folder):
    table, bits = load_kiba(kiba_folder)
    rows = np.random.default_rng(0).integers(len(table), size=5)
    expected = fingerprints._compute(table.smiles.iloc[rows].tolist(), 1024, 2)
    np.testing.assert_array_equal(bits[rows], expected)
    task = Kiba("val", folder=kiba_folder)[3]
    assert (task.support.x.shape, task.query.y.shape) == ((16, 1024), (15, 1))


def test_a_division_that_rounds_up_twice_leaves_no_name_out():
    order = hashed_order("abc")
    assert divided("abc", (0.0, 0.5, 0.5)) == dict(zip(order, ("val", "val", "test"), strict=True))
