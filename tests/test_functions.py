"""Tasks from functions: of their number, or of a random state."""

import numpy as np
import pytest
import torch
from small_data import with_value

from metalens import Examples, FunctionTasks, GeneratedTasks, MetaLensError, Task

SPLITS = ("train", "val", "test")


def quadratics(index):
    x = np.linspace(-1, 1, 20 + index)
    return x, index + np.stack([x, x**2], 1)


def labeled(index):
    return np.arange(24.0).reshape(24, 1), np.arange(24) % 4


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("changes", [{}, {"cache": 0}])
def test_a_function_gives_tasks_that_repeat(split, changes):
    tasks, numbers = FunctionTasks(quadratics, split, n_tasks=20, **changes), [9, 0, 31, 9]
    bulk = tasks.batch(numbers)
    for place, number in enumerate(numbers):
        one = FunctionTasks(quadratics, split, n_tasks=20)[number]
        assert all(torch.equal(many[place], t) for many, t in zip(bulk.tensors, one.tensors, strict=True))
        x = torch.cat([examples.x for examples in one[:2]]).flatten()
        y = torch.cat([examples.y for examples in one[:2]])
        index = int(tasks.task_name(number))
        assert len(x.unique()) == 20
        torch.testing.assert_close(y, index + torch.stack([x, x**2], 1))


def test_tasks_of_a_function_are_called_when_asked_for_and_kept():
    calls = []
    tasks = FunctionTasks(lambda index: calls.append(index) or quadratics(index), "test", n_tasks=20)
    assert calls == []
    for number in range(12):
        tasks[number]
    assert sorted(map(str, calls)) == list(tasks.task_names)
    parts = [FunctionTasks(quadratics, split, n_tasks=20).task_names for split in SPLITS]
    assert sorted(sum(parts, ())) == sorted(map(str, range(20)))


def test_classes_of_a_function_keep_their_numbers_or_are_drawn():
    settings = {"n_tasks": 9, "k_shot": 2, "n_query": 3}
    task = FunctionTasks(labeled, **settings)[0]
    assert (task.support.x.flatten() % 4).tolist() == task.support.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    two = FunctionTasks(labeled, n_way=2, **settings)
    assert two[0].query.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert len({tuple(two[number].query.x[::3, 0].numpy() % 4) for number in range(200)}) == 12


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1, 2], r"Task \d: the function must return \(x, y\), got list"),
        (
            (np.zeros((20, 1)), np.zeros(19)),
            r"Task \d: x and y must have an entry for each .* \(20, 1\) and \(19",
        ),
        ((np.zeros((20, 1)), np.full(20, np.nan)), r"Task \d: y\[0\] is nan, and must be finite"),
        ((np.array(["a"] * 20), np.zeros(20)), r"Task \d: x must be numbers, .* got <U1"),
        ((np.array([{}] * 20), np.zeros(20)), r"Task \d: x holds Python objects"),
        ((np.zeros((20, 1)), np.zeros((20, 1), int)), r"or whole numbers \(n,\), got"),
        ((np.zeros((19, 1)), np.zeros(19)), r"Task \d has 19 examples, and needs k_shot \+ n_query = 20"),
        ((np.zeros((40, 1)), np.arange(40) % 2 + 1), r"Task \d: classes must be numbered from 0 .* got 1, 2"),
        ((np.zeros((30, 1)), np.arange(30) % 2), "needs .* = 20 examples in each of 2 classes"),
    ],
)
def test_what_a_function_returns_is_checked(returned, words):
    with pytest.raises(MetaLensError, match=words):
        FunctionTasks(lambda index: returned, n_tasks=5)[0]


def test_wrong_settings_of_functions_are_refused():
    with pytest.raises(
        MetaLensError, match=r"Task \d+: inputs have the shape \(\d+,\), and those of an earlier"
    ):
        FunctionTasks(lambda i: (np.zeros((20, i + 1)), np.zeros(20)), n_tasks=5).batch([0, 1])
    for changes, words in (
        ({"n_tasks": 0}, "n_tasks must be at least 1"),
        ({"names": ["a", "a", "b"]}, "names must be 3 different ones, .* got 3 of which 2"),
        ({"n_way": 1}, "n_way must be at least 2"),
        ({"splits": {"0": "train"}}, "Task 1 must be in the split"),
        ({"splits": (0, 1, 0)}, "The train split has no tasks"),
    ):
        with pytest.raises(MetaLensError, match=words):
            FunctionTasks(quadratics, **({"n_tasks": 3} | changes))


def lines(rng, n):
    slope, x = rng.normal(size=(n, 1, 1)), rng.normal(size=(n, 8, 1))
    return Task(Examples(x[:, :3], slope * x[:, :3]), Examples(x[:, 3:], slope * x[:, 3:]), slope[..., 0])


def test_generated_tasks_are_those_of_blocks():
    tasks = GeneratedTasks(lines, block_size=4, seed=1)
    numbers = [9, 0, 31, 9]
    bulk = tasks.batch(numbers)
    for place, number in enumerate(numbers):
        one = GeneratedTasks(lines, block_size=4, seed=1)[number]
        assert all(torch.equal(many[place], t) for many, t in zip(bulk.tensors, one.tensors, strict=True))
        torch.testing.assert_close(one.query.y, one.query.x * one.descriptors)
    assert not torch.equal(tasks[0].query.x, GeneratedTasks(lines, "test", block_size=4, seed=1)[0].query.x)
    pool = GeneratedTasks(lines, n_train_tasks=3, block_size=4)
    assert pool.pool_size == 3
    assert len({pool[number].descriptors.item() for number in range(9)}) == 3


def spoiled(task, **changes):
    support = Examples(changes.get("x", task.support.x), changes.get("y", task.support.y))
    return Task(support, task.query)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda rng, n: None, "Tasks 4 to 7: the function must return a Task, got NoneType"),
        (
            lambda rng, n: lines(rng, n - 1),
            r"support.x must be numbers with an axis for the 4 tasks .* \(3, 3",
        ),
        (
            lambda rng, n: spoiled(lines(rng, n), x=with_value(np.zeros((4, 3, 1)), (1, 2, 0), np.inf)),
            r"Task 5: support.x\[2, 0\] is inf, and must be finite",
        ),
        (lambda rng, n: spoiled(lines(rng, n), y=np.zeros((4, 3))), r"support.y must be .* shape \(4, 3\)"),
        (lambda rng, n: spoiled(lines(rng, n), y=np.zeros((4, 2, 1))), "support has 3 inputs and 2 targets"),
    ],
)
def test_what_a_generating_function_returns_is_checked(function, words):
    with pytest.raises(MetaLensError, match=words):
        GeneratedTasks(function, block_size=4)[5]
