"""Tasks from tables: which rows of which tasks, in which split and on which side."""

import hashlib
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from small_table import NAMES, ROWS, rows_of, small_table, tasks_of

from metalens import MetaLensError, Ridge, evaluate
from metalens.data.splits import divided, hashed_order
from metalens.data.tables.drawing import TaskRows
from metalens.data.tables.encoding import TableInputs


@pytest.fixture
def table():
    return small_table()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_bulk_equals_single_in_any_order(table, split):
    tasks, numbers = tasks_of(table, split), [9, 0, 31, 9]
    bulk = tasks.batch(numbers)
    for place, number in enumerate(numbers):
        for many, one in zip(bulk[:2], tasks_of(table, split)[number][:2], strict=True):
            assert torch.equal(many.x[place], one.x)
            assert torch.equal(many.y[place], one.y)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_has_different_rows_of_one_task_of_the_table(table, split):
    tasks = tasks_of(table, split)
    for number in range(20):
        task = tasks[number]
        rows = np.concatenate([rows_of(examples) for examples in task[:2]])
        assert len(set(rows)) == 7
        assert {NAMES[row // ROWS] for row in rows} == {tasks.task_name(number)}
        y = torch.cat([examples.y for examples in task[:2]]).flatten()
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
    for examples in tasks[:2]:
        y = examples.y.flatten().double().numpy() * train.activity.std(ddof=0) + train.activity.mean()
        for x, value in zip(examples.x.numpy(), y, strict=True):
            nearest = min(by_target, key=lambda target: abs(target - value))
            expected = (np.array(by_target[nearest]) - train[["half", "dose"]].mean()) / train[
                ["half", "dose"]
            ].std(ddof=0)
            assert nearest == pytest.approx(value, abs=1e-5)
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_fewer_training_tasks_decide_the_statistics_too(table):
    few = tasks_of(table, n_train_tasks=2, seed=3)
    assert len(few.task_names) == 2
    assert set(few.task_names) < set(NAMES[:6])
    chosen = {tasks_of(table, n_train_tasks=2, seed=seed).task_names for seed in range(8)}
    assert len(chosen) > 1
    test = tasks_of(table, "test", n_train_tasks=2, seed=3, standardize="train", k_shot=9)
    assert test.task_names == ("assay8", "assay9")
    known = table[table.assay.isin(few.task_names)].activity
    rows = np.concatenate([rows_of(examples) for examples in test[0][:2]])
    y = torch.cat([examples.y for examples in test[0][:2]]).flatten()
    expected = (np.sin(rows) + rows // ROWS - known.mean()) / known.std(ddof=0)
    np.testing.assert_allclose(y, expected, rtol=1e-4)


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
    assert tasks.metadata() == {"tasks": 1, "rows": ROWS, "target_mean": 0.0, "target_deviation": 1.0}


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
        ({"descriptors": ["row"]}, "to be used as descriptors, but those of assay0 say"),
        ({"roles": "split"}, "of column split must say support or query, got 't"),
        ({"standardize": "all"}, "standardize must be one of train, task, none, got 'all'"),
    ],
)
def test_wrong_settings_are_refused(table, changes, words):
    with pytest.raises(MetaLensError, match=words):
        tasks_of(table, **changes)


@pytest.mark.parametrize("q", [3, None])
def test_a_group_is_never_on_both_sides(table, q):
    frame = table.assign(scan=table.row // 3 % 4)
    tasks = tasks_of(frame, "test", group="scan", n_query=q)
    for number in range(40):
        sides = [set(rows_of(examples) // 3) for examples in tasks[number][:2]]
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
        sides = [set(rows_of(examples)) for examples in tasks_of(table, "test", inputs=twins)[number][:2]]
        assert not sides[0] & sides[1]
    with pytest.raises(MetaLensError, match=r"Rows \d+ and \d+ of task assay0 have the same inputs, .* 60"):
        tasks_of(table, inputs=twins, duplicates="refuse")
    allowed = [tasks_of(table, "test", inputs=twins, duplicates="allow")[number] for number in range(30)]
    assert any(set(rows_of(task.support)) & set(rows_of(task.query)) for task in allowed)
    chain = {
        "group": "scan",
        "k_shot": 1,
        "n_query": 2,
        "duplicates": "together",
    }  # a row is linked with the next, by one or the other
    with pytest.raises(
        MetaLensError, match=r"none with k_shot \+ n_query = 3 rows or more that can be divided"
    ):
        tasks_of(table.assign(scan=(table.row + 1) // 2), "test", inputs=twins, **chain)


@pytest.mark.parametrize("values", [2, 3])
def test_rows_of_few_categories_are_independent_with_a_note(table, values):
    """Radon of houses: with and without basement, so that no task can be divided by its inputs."""
    frame = table.assign(floor=table.row % values)
    roles = {"inputs": ["floor"], "k_shot": 9, "n_query": 3}
    with pytest.warns(UserWarning, match=r"Only 0 of \d+ tasks can be divided with rows of equal inputs"):
        found = tasks_of(frame, **roles)
    allowed = tasks_of(frame, **roles, duplicates="allow")
    assert found.task_names == allowed.task_names
    for one, other in zip(found[3].tensors, allowed[3].tensors, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(MetaLensError, match="can be divided"):
        tasks_of(frame, **roles, duplicates="together")


def test_equal_rows_stay_together_where_tasks_can_be_divided(table):
    frame = table.assign(dose=table.row // 2)
    sides = [
        {*task.support.x[:, 0].tolist()} & {*task.query.x[:, 0].tolist()}
        for task in (tasks_of(frame, inputs=["dose"], k_shot=2, n_query=2)[number] for number in range(20))
    ]
    assert not any(sides)


def test_a_published_division_into_support_and_query_is_kept(table):
    frame = table.assign(part=np.where(table.row % 2, "support", "query"))
    for number in range(10):
        support, query, _ = tasks_of(frame, "test", roles="part", n_query=None)[number]
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
    learner = Ridge(n_outputs=1)
    scores = evaluate(learner, tasks, n_tasks=2).query("metric == 'mse'").value
    for number, score in enumerate(scores):
        support, query, _ = tasks[number]
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
        rows = [rows_of(examples) for number in range(6) for examples in tasks[number][:2]]
        seen[split] = set(frame.molecule[np.concatenate(rows)])
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 40
    assert len(seen["train"]) == 20


def test_traits_are_properties_of_tasks(table):
    frame = table.assign(species=np.where(table.row // ROWS % 2, "yeast", "mouse"), year=table.row // ROWS)
    tasks = tasks_of(frame, "test", descriptors=["species", "year"])
    descriptors = tasks.batch([0, 1, 2]).descriptors
    year = np.arange(6)
    expected = [[1, 0, (8 - year.mean()) / year.std()], [0, 1, (9 - year.mean()) / year.std()]]
    np.testing.assert_allclose(descriptors, [*expected, expected[0]], rtol=1e-6)
    assert torch.equal(tasks[1].descriptors, descriptors[1])


def test_a_division_that_rounds_up_twice_leaves_no_name_out():
    order = hashed_order("abc")
    assert divided("abc", (0.0, 0.5, 0.5)) == dict(zip(order, ("val", "val", "test"), strict=True))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_another_split_shares_the_table_and_equals_its_own_distribution(table, split, monkeypatch):
    changes = {"inputs": ["half", "dose"], "standardize": "train", "group": "pair", "descriptors": ["place"]}
    frame = table.assign(pair=table.row // 2, place=table.row // ROWS)
    first, expected = tasks_of(frame, "val", **changes), tasks_of(frame, split, **changes)
    monkeypatch.setattr(TableInputs, "transform", None)
    again = first.in_split(split)
    assert again.inputs is first.inputs
    assert (again.split, again.task_names, again.metadata()) == (
        split, expected.task_names, expected.metadata()
    )  # fmt: skip
    for number in (0, 7, 19):
        for one, other in zip(again[number].tensors, expected[number].tensors, strict=True):
            assert torch.equal(one, other)
    assert first.split == "val"


def test_settings_of_columns_are_checked_where_they_are_given(table):
    with pytest.raises(TypeError, match="unexpected keyword argument 'smile'"):
        tasks_of(table, smile="row")
