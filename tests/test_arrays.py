"""Tasks from arrays, on small synthetic data."""

import io
import zipfile

import numpy as np
import pytest
import torch
from small_data import with_value

from metalens import ArrayTasks, MetaLensError, evaluate
from metalens.data import npz
from metalens.data.named_tasks import split_tasks
from metalens.data.support_query import divide_classes
from metalens.learners import Ridge

N, PER_TASK = 120, 12  # ten tasks
SPLITS = ("train", "val", "test")


@pytest.fixture
def data():
    """Ten tasks of twelve examples in mixed order; x says which example it is, and y follows from it."""
    number = np.random.default_rng(0).permutation(N)
    task = number // PER_TASK
    return {
        "x": np.stack([number, np.sqrt(number)], 1).reshape(N, 2, 1),
        "y": np.sin(number) + task,
        "kind": np.array(["cat", "dog", "emu"])[number % 3],
        "task": np.char.add("t", task.astype(str)),
        "film": number // 3,
        "family": task // 2,
        "split": np.select([task < 6, task < 8], ["train", "val"], "test"),
    }


def tasks_of(data, split="train", **changes):
    settings = {"splits": "split", "k_shot": 4, "n_query": 3, "standardize": "none", "scale_inputs": False}
    return ArrayTasks(data, split, **(settings | changes))


def numbers_of(examples):
    return examples.x[..., 0, 0].long().numpy()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("changes", [{}, {"y": "kind", "k_shot": 2, "n_query": 1}, {"group": "film"}])
def test_bulk_equals_single_in_any_order(data, split, changes):
    tasks, numbers = tasks_of(data, split, **changes), [9, 0, 31, 9]
    bulk = tasks.batch(numbers)
    for place, number in enumerate(numbers):
        one = tasks_of(data, split, **changes)[number]
        for many, tensor in zip(bulk.tensors, one.tensors, strict=True):
            assert torch.equal(many[place], tensor)


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_has_different_examples_of_one_task(data, split):
    tasks = tasks_of(data, split)
    for number in range(30):
        task = tasks[number]
        drawn = np.concatenate([numbers_of(examples) for examples in task[:2]])
        assert len(set(drawn)) == 7
        assert {f"t{n // PER_TASK}" for n in drawn} == {tasks.task_name(number)}
        y = torch.cat([examples.y for examples in task[:2]]).flatten()
        np.testing.assert_allclose(y, np.sin(drawn) + drawn // PER_TASK, rtol=1e-6)


def test_training_goes_through_all_tasks_and_held_out_ones_come_in_order(data):
    train = tasks_of(data)
    rounds = [[train.task_name(6 * number + i) for i in range(6)] for number in range(3)]
    assert all(sorted(names) == [f"t{i}" for i in range(6)] for names in rounds)
    assert len(set(map(tuple, rounds))) == 3
    test = tasks_of(data, "test")
    assert [test.task_name(i) for i in range(3)] == ["t8", "t9", "t8"]
    assert set(numbers_of(test[0].support)) != set(numbers_of(test[2].support))
    assert test.metadata() == {"tasks": 2, "examples": 24}


@pytest.mark.parametrize("kind", ["regression", "classes"])
def test_support_and_query_share_no_group(data, kind):
    changes = {} if kind == "regression" else {"y": "kind", "k_shot": 2, "n_query": 1}
    tasks = tasks_of(data, group="film", **changes)
    sides = set()
    for number in range(100):
        task = tasks[number]
        films = [set(numbers_of(examples) // 3) for examples in task[:2]]
        assert not films[0] & films[1]
        sides.add((tasks.task_name(number), *films[0]))
    assert len(sides) > 20


def test_equal_inputs_are_kept_together_alone_and_with_groups(data):
    # Pairs of equal inputs; films of three examples then link six.
    twins = {**data, "x": data["x"].copy()}
    twins["x"][:, 1, 0] = twins["x"][:, 0, 0] // 2
    twins["x"][:, 0, 0] = twins["x"][:, 1, 0]
    for changes, unit in (({}, 1), ({"group": "film"}, 3)):
        together = tasks_of(twins, **changes)
        for number in range(50):
            task = together[number]
            sides = [set(numbers_of(examples) // unit) for examples in task[:2]]
            assert not sides[0] & sides[1]
    allowed = tasks_of(twins, duplicates="allow")
    assert any(
        set(numbers_of(task.support)) & set(numbers_of(task.query))
        for task in map(allowed.__getitem__, range(9))
    )


def test_a_division_of_groups_that_is_hard_to_find_is_kept():
    groups = np.repeat(np.arange(12), [1] * 11 + [89])  # only the last group can be the query set
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = divide_classes(rng, np.zeros(100, int), groups, n_way=1, k_shot=8, n_query=80)
        assert found is not None
        assert found.sum() >= 8
        assert not found[-1]
    assert divide_classes(rng, np.zeros(100, int), groups, n_way=1, k_shot=12, n_query=80) is None


def test_no_task_and_no_family_is_in_two_splits(data):
    for changes in ({}, {"family": "family"}):
        names = [tasks_of(data, split, splits=(0.4, 0.4, 0.2), **changes).task_names for split in SPLITS]
        assert sorted(sum(names, ())) == [f"t{i}" for i in range(10)]
        if changes:
            families = [{int(name[1:]) // 2 for name in of_split} for of_split in names]
            assert [len(family) for family in families] == [2, 2, 1]
            assert not families[0] & families[1] | families[0] & families[2] | families[1] & families[2]
    changed = {**data, "split": np.where(data["task"] == "t8", "train", data["split"])}
    with pytest.raises(MetaLensError, match=r"Family 4 is in two splits, train and test \(task t9\)"):
        tasks_of(changed, family="family")
    with pytest.raises(MetaLensError, match="All examples of a task must have one split, but of task t0"):
        tasks_of({**data, "split": np.where(data["x"][:, 0, 0] == 0, "val", data["split"])})
    with pytest.raises(MetaLensError, match="Task b must be in the split train, val or test, got None"):
        split_tasks(["a", "b"], {"a": "train"})


def test_classes_keep_their_meaning_or_are_drawn_and_numbered_anew(data):
    kinds = np.array(["cat", "dog", "emu"])
    all_of_them = tasks_of(data, y="kind", k_shot=2, n_query=1)
    assert (all_of_them.class_names, all_of_them.n_classes) == (tuple(kinds), 3)
    orders = set()
    two = tasks_of(data, y="kind", k_shot=2, n_query=1, n_way=2)
    for number in range(20):
        task = all_of_them[number]
        assert task.support.y.tolist() == [0, 0, 1, 1, 2, 2]
        assert task.query.y.tolist() == [0, 1, 2]
        assert (numbers_of(task.support) % 3 == task.support.y.numpy()).all()
        task, pooled = two[number], two.with_global_labels()[number]
        assert task.support.y.tolist() == [0, 0, 1, 1]
        assert (numbers_of(task.support)[::2] % 3 == numbers_of(task.query) % 3).all()
        assert (numbers_of(pooled.support) % 3 == pooled.support.y.numpy()).all()
        orders.add(tuple(numbers_of(task.query) % 3))
    assert len(orders) == 6


def test_inputs_and_targets_are_scaled_by_the_training_tasks(data):
    known = data["split"] == "train"
    vectors = {**data, "x": data["x"][..., 0]}
    task = tasks_of(vectors, "test", scale_inputs=True, standardize="train", k_shot=9)[0]
    shift, scale = vectors["x"][known].mean(0), vectors["x"][known].std(0)
    for examples in task[:2]:
        number = np.rint((examples.x.double().numpy() * scale + shift)[:, 0])
        np.testing.assert_allclose(
            examples.x, (np.stack([number, np.sqrt(number)], 1) - shift) / scale, atol=1e-5
        )
        y = (np.sin(number) + number // PER_TASK - data["y"][known].mean()) / data["y"][known].std()
        np.testing.assert_allclose(examples.y[:, 0], y, atol=1e-5)
    together = tasks_of(data, "test", scale_inputs=True)[0].support.x.double().numpy()
    shift, scale = data["x"][known].mean(), data["x"][known].std()
    number = np.rint(together[:, 0, 0] * scale + shift)
    np.testing.assert_allclose(together[:, 1, 0], (np.sqrt(number) - shift) / scale, atol=1e-5)
    own = tasks_of(data, "test", standardize="task", k_shot=9)[0]
    y = torch.cat([examples.y for examples in own[:2]])
    assert (y.mean().item(), y.std(unbiased=False).item()) == pytest.approx((0, 1), abs=1e-5)


def test_without_training_tasks_there_is_no_scale(data):
    new = {"splits": {f"t{number}": "test" for number in range(10)}}
    assert tasks_of(data, "test", **new).metadata()["tasks"] == 10
    for changes in ({"scale_inputs": True}, {"standardize": "train"}):
        with pytest.raises(MetaLensError, match="scaled by the training tasks, and there is none"):
            tasks_of(data, "test", **new, **changes)


def test_bytes_become_numbers_from_0_to_1(data):
    x = (np.arange(N * 6) % 256).astype(np.uint8).reshape(N, 1, 2, 3)
    task = tasks_of({**data, "x": x}, scale_inputs=True)[0]
    assert (task.support.x.dtype, task.support.x.shape) == (torch.float32, (4, 1, 2, 3))
    flat = (task.support.x * 255).flatten(1)
    assert torch.equal(flat.diff(dim=1) % 256, torch.ones(4, 5))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_gives_the_same_tasks(data, tmp_path, save):
    save(tmp_path / "data.npz", **data)
    read = tasks_of(tmp_path / "data.npz", group="film")
    torch.testing.assert_close(read.batch([3, 8]), tasks_of(data, group="film").batch([3, 8]))
    assert isinstance(read._x._arrays[0], np.memmap) == (save is np.savez)


def test_fortran_order_and_empty_arrays_are_read(tmp_path):
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.zeros((0, 2)), "c": np.arange(3)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "data.npz", **arrays)
        for name, array in npz.read_npz(tmp_path / "data.npz", list(arrays)).items():
            np.testing.assert_array_equal(array, arrays[name])


def test_tensors_and_lists_are_arrays_too(data):
    lists = {**data, "x": torch.from_numpy(data["x"]), "y": data["y"].tolist()}
    lists["task"] = data["task"].astype(object)
    torch.testing.assert_close(tasks_of(lists)[1], tasks_of(data)[1])


def test_small_tasks_are_left_out_with_a_warning(data):
    kept = (data["task"] != "t8") | (data["x"][:, 0, 0] % PER_TASK < 6)
    with pytest.warns(UserWarning, match=r"1 of the 2 tasks of the test split \(such as t8\) do not have"):
        tasks = tasks_of({name: array[kept] for name, array in data.items()}, "test")
    assert tasks.task_names == ("t9",)


def test_fewer_training_tasks_are_chosen_by_the_seed(data):
    few = {tasks_of(data, n_train_tasks=2, seed=seed).task_names for seed in range(8)}
    assert len(few) > 1
    assert all(len(names) == 2 for names in few)
    assert tasks_of(data, "test", n_train_tasks=2).task_names == ("t8", "t9")


def test_arrays_are_scored_task_by_task(data):
    rows = evaluate(Ridge(n_outputs=1), tasks_of(data, "test"), n_tasks=2)
    assert rows.metric.tolist() == ["mse", "mse", "pearson_r2", "pearson_r2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda d: {"y": d["y"][:-1]}, r"y must have an entry for each of the 120 examples of x, got .*119"),
        (lambda d: {"x": with_value(d["x"], (7, 1, 0), np.nan)}, r"x\[7, 1, 0\] is nan, and must be finite"),
        (lambda d: {"y": with_value(d["y"], 5, -np.inf)}, r"y\[5\] is -inf, and must be finite"),
        (lambda d: {"x": [[1, 2], [3]] * 60}, "x is no array .* examples of one shape"),
        (lambda d: {"x": np.array([{}] * N)}, "x holds Python objects; give numbers or text"),
        (lambda d: {"x": d["task"]}, "Array x must hold numbers, got <U"),
        (lambda d: {"task": d["y"]}, "task must hold one text or whole number for each example, got float64"),
        (lambda d: {"y": np.ones(N, int)}, "all are 1; give two classes or more, or real numbers"),
        (
            lambda d: {"y": np.ones(N)},
            "Within each training task, such as t0, y is the same in all rows; give",
        ),
        (lambda d: {"task": np.full(N, b"\xff")}, "Array task holds text that is not in UTF-8"),
        (lambda d: {"y": np.ones((N, 2, 2))}, r"Real targets y must be \(N,\) or \(N, c\), got"),
        (lambda d: {"split": np.full(N, "dev")}, "Task t0 must be in the split train, val or test, got dev"),
        (lambda d: {"split": np.full(N, "val")}, "The train split has no tasks; give it a larger share"),
        (lambda d: {name: array[:0] for name, array in d.items()}, "give arrays of one length, above 0"),
    ],
)
def test_bad_data_are_one_sentence(data, changes, words):
    with pytest.raises(MetaLensError, match=words):
        tasks_of({**data, **changes(data)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"y": "activity"},
            "The data have no array activity; they have x, y, kind, task, film, family, split",
        ),
        ({"k_shot": 10}, r"None of the 6 tasks of the train split \(such as t0\) has k_shot \+ n_query = 10"),
        ({"k_shot": 7, "n_query": 4, "group": "film"}, "no group in both; lower k_shot or n_query"),
        ({"y": "kind"}, "in each of 3 classes"),
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_train_tasks": 7}, "n_train_tasks must be at most 6"),
        ({"standardize": "all"}, "standardize must be one of train, task, none, got 'all'"),
        ({"splits": (0.5, 0.2)}, "splits must be three shares that add up to 1"),
        ({"duplicates": "refuse"}, "duplicates must be one of together, allow, got 'refuse'"),
        ({"n_way": 2}, "n_way is for classes, and the targets are real"),
        ({"n_way": 4, "y": "kind"}, "n_way must be between 2 and 3, the number of classes, got 4"),
    ],
)
def test_wrong_settings_are_refused(data, changes, words):
    with pytest.raises(MetaLensError, match=words):
        tasks_of(data, **changes)


@pytest.mark.parametrize("standardize", ["train", "task"])
@pytest.mark.parametrize("split", SPLITS)
def test_another_split_shares_the_arrays_and_equals_its_own_distribution(data, split, standardize):
    settings = {"standardize": standardize, "group": "film"}
    first, expected = tasks_of(data, "val", **settings), tasks_of(data, split, **settings)
    again = first.in_split(split)
    assert (again.split, again.task_names, again.metadata()) == (
        split, expected.task_names, expected.metadata()
    )  # fmt: skip
    for number in (0, 7, 19):
        for one, other in zip(again[number].tensors, expected[number].tensors, strict=True):
            assert torch.equal(one, other)


def test_pickles_are_never_loaded(data, tmp_path):
    class Malice:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    np.savez(tmp_path / "data.npz", **{**data, "x": np.array([Malice()] * N)})
    with pytest.raises(MetaLensError, match=r"Array x of .* holds Python objects, which could run code"):
        tasks_of(tmp_path / "data.npz")
    assert not (tmp_path / "opened").exists()


def test_files_that_are_none_are_refused(data, tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    with pytest.raises(MetaLensError, match="There is no file"):
        tasks_of(path)
    for content in (b"", b"no zip file"):
        path.write_bytes(content)
        with pytest.raises(MetaLensError, match=r"is damaged or no \.npz file"):
            tasks_of(path)
    np.savez(path, x=data["x"])
    with pytest.raises(MetaLensError, match="has no array y, task, split; it has x"):
        tasks_of(path)
    np.savez_compressed(path, **data)
    monkeypatch.setattr(npz, "MAX_UNPACKED", 100)
    with pytest.raises(MetaLensError, match=r"Array x of .* unpacks to .*; save it by numpy\.savez"):
        tasks_of(path)


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.arange(10))
    claims = whole.getvalue().replace(b"(10,)", b"(99,)")
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", claims)
    with pytest.raises(MetaLensError, match="array x has another size than its header says"):
        npz.read_npz(tmp_path / "data.npz", ["x"])


def test_a_header_that_does_not_end_is_refused(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.arange(10))
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", whole.getvalue().replace(b"(10,)", b"(10, "))
    with pytest.raises(MetaLensError, match=r"is damaged or no \.npz file"):
        npz.read_npz(tmp_path / "data.npz", ["x"])
