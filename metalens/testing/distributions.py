"""The contract of task distributions."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args
from unittest import SkipTest

import torch
from torch import Tensor

from metalens.data import Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.tasks import TENSORS, Task, stack_tasks
from metalens.testing.checks import Check, run_checks

Factory = Callable[[Split, int], TaskDistribution]
SPLITS: tuple[Split, ...] = get_args(Split)


def check_distribution(
    factory: Factory, *, splits: Sequence[Split] = SPLITS, n_tasks: int = 6, seeded: bool = True
) -> list[str]:
    """Check that a task distribution keeps the contract of all distributions.

    A task is a pure function of its index: the same when drawn twice, in another order, from another instance
    and after pickling. A batch equals its tasks stacked. No split has a task of another: `source` names
    different tasks, or, where it names none, no two splits have an equal support or query set, and those of
    classes have no input in common. Shapes and types are those of `metalens.Examples`, the same for all
    tasks; all numbers are finite; another seed gives other tasks; and `with_global_labels` changes class
    indices only, to those of the whole split.

    Args:
        factory: returns the distribution of a split and a seed, such as
            `lambda split, seed: Sinusoid(split, seed=seed)`.
        splits: the splits to look at.
        n_tasks: how many tasks of each are looked at.
        seeded: whether the seed changes tasks; it does not where all examples of a task are in it, in order.

    Returns:
        The names of the checks that apply; all hold.

    Raises:
        AssertionError: one does not hold.

    >>> from metalens import Sinusoid
    >>> check_distribution(lambda split, seed: Sinusoid(split, seed=seed))[:2]
    ['tasks_are_functions_of_their_index', 'pickling_keeps_the_tasks']
    """
    return run_checks(distribution_checks(factory, splits=splits, n_tasks=n_tasks, seeded=seeded))


def distribution_checks(
    factory: Factory, *, splits: Sequence[Split] = SPLITS, n_tasks: int = 6, seeded: bool = True
) -> Iterator[Check]:
    """Yield the checks of `check_distribution`, to run one by one.

    >>> from metalens import Harmonic
    >>> checks = distribution_checks(lambda split, seed: Harmonic(split, seed=seed), n_tasks=2)
    >>> next(checks)()
    """
    subject = Subject(factory, tuple(splits), n_tasks)
    properties: list[Callable[[Subject], None]] = [
        tasks_are_functions_of_their_index,
        pickling_keeps_the_tasks,
        batch_equals_stacked_tasks,
        splits_are_disjoint,
        shapes_and_types_are_those_of_tasks,
        numbers_are_finite,
        global_labels_keep_the_tasks,
    ]
    if seeded:
        properties.append(seeds_give_different_tasks)
    for check in properties:
        yield Check(check.__name__, lambda check=check: check(subject))


@dataclass(frozen=True)
class Subject:
    """What is checked: the first tasks of some splits of a distribution."""

    factory: Factory
    splits: tuple[Split, ...]
    n_tasks: int

    def each(self, seed: int = 0) -> Iterator[TaskDistribution]:
        """Yield a new distribution of every split."""
        for split in self.splits:
            yield self.factory(split, seed)

    @property
    def indices(self) -> range:
        """The numbers of the tasks."""
        return range(self.n_tasks)


def same(one: Task, other: Task) -> bool:
    """Return whether two tasks are equal, to the last bit.

    >>> from metalens import Sinusoid
    >>> same(Sinusoid()[0], Sinusoid()[0]), same(Sinusoid()[0], Sinusoid()[1])
    (True, False)
    """
    pairs = list(zip(one.tensors, other.tensors, strict=False))
    return len(one.tensors) == len(other.tensors) and all(torch.equal(a, b) for a, b in pairs)


def described(tasks: TaskDistribution, index: int) -> tuple[str, str | None, str | None]:
    """Return what a distribution tells of a task: its name, domain and source."""
    return tasks.task_name(index), tasks.domain(index), tasks.source(index)


def tasks_are_functions_of_their_index(subject: Subject) -> None:
    """A task is the same when it is drawn again, in another order or from another instance."""
    for one, other in zip(subject.each(), subject.each(), strict=True):
        first = [one[index] for index in subject.indices]
        for index in reversed(subject.indices):
            where = f"Task {index} of the {one.split} split"
            assert same(one[index], first[index]), f"{where} must be the same when it is drawn again."
            assert same(other[index], first[index]), (
                f"{where} must not depend on which tasks are drawn before it."
            )
            assert described(one, index) == described(other, index), (
                f"{where} must have the same name, domain and source in every instance, got "
                f"{described(one, index)} and {described(other, index)}."
            )


def pickling_keeps_the_tasks(subject: Subject) -> None:
    """A distribution that was pickled, before or after drawing, has the same tasks."""
    for tasks in subject.each():
        for _ in range(2):  # before and after a task was drawn
            try:
                copy = pickle.loads(pickle.dumps(tasks))
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                raise AssertionError(f"The {tasks.split} split must be picklable: {error}") from error
            for index in subject.indices:
                said = f"Task {index} of the {tasks.split} split must be the same after pickling."
                assert same(copy[index], tasks[index]), said
                assert described(copy, index) == described(tasks, index), said


def batch_equals_stacked_tasks(subject: Subject) -> None:
    """A batch, in any order and with repetitions, is its tasks stacked."""
    for tasks in subject.each():
        numbers = [*reversed(subject.indices), 0, 0]
        of_batches = [numbers] if tasks.equal_sizes else [[index] for index in numbers]
        for indices in of_batches:
            stacked = stack_tasks([tasks[index] for index in indices])
            said = f"batch({indices}) of the {tasks.split} split must equal the stacked tasks."
            assert same(tasks.batch(indices), stacked), said


def splits_are_disjoint(subject: Subject) -> None:
    """No two splits share a task."""
    if len(subject.splits) < 2:
        raise SkipTest("There is one split.")
    found: dict[object, str] = {}
    for tasks in subject.each():
        for index in subject.indices:
            for unique, description in _unique_values(tasks, index):
                split = found.setdefault(unique, tasks.split)
                assert split == tasks.split, (
                    f"Splits must not share a task, but {description} of task {index} of the {tasks.split} "
                    f"split is in the {split} split too."
                )


def _unique_values(tasks: TaskDistribution, index: int) -> Iterator[tuple[object, str]]:
    """Yield values that no other split may contain, each with a description."""
    source = tasks.source(index)
    if source is not None:
        yield source, f"the source {source}"
        return
    for name, examples in zip(("support", "query"), tasks[index][:2], strict=True):
        if examples.y.is_floating_point():
            yield _hash(examples.x) + _hash(examples.y), f"the {name} set"
        else:
            yield from ((_hash(x), f"{name} input {number}") for number, x in enumerate(examples.x))


def _hash(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).digest()


def shapes_and_types_are_those_of_tasks(subject: Subject) -> None:
    """Inputs and targets have the shapes and types of `Examples`, the same in all tasks."""
    types, shapes = set(), set()
    for tasks in subject.each():
        for index in subject.indices:
            task, where = tasks[index], f"task {index} of the {tasks.split} split"
            _check_shapes(task, where)
            types.add(tuple(tensor.dtype for tensor in task.tensors))
            inner = [(*examples.x.shape[1:], *examples.y.shape[1:]) for examples in task[:2]]
            shapes.add(tuple(inner[0]))
            assert inner[0] == inner[1], (
                f"Support and query examples must have one shape, got {inner} in {where}."
            )
    assert len(types) == 1, f"All tasks must have the same types, got {sorted(map(str, types))}."
    assert len(shapes) == 1, f"Examples of all tasks must have one shape, got {sorted(shapes)}."


def _check_shapes(task: Task, where: str) -> None:
    for name, examples in zip(("support", "query"), task[:2], strict=True):
        x, y = examples
        assert len(x) == len(y) > 0, f"{where}: the {name} set has {len(x)} inputs and {len(y)} targets."
        if y.is_floating_point():
            assert y.dim() == 2, f"{where}: real targets must be (n, c), got {tuple(y.shape)} ({name})."
        else:
            right = y.dim() == 1 and y.dtype == torch.int64 and y.min() >= 0
            assert right, (
                f"{where}: class indices must be int64 of (n,), 0 or more, got {y.dtype} {tuple(y.shape)}."
            )
    if task.descriptors is not None:
        shape = tuple(task.descriptors.shape)
        assert len(shape) == 1, f"{where}: descriptors must be (p,), got {shape}."


def numbers_are_finite(subject: Subject) -> None:
    """No tensor has a number that is not finite."""
    for tasks in subject.each():
        for index in subject.indices:
            for name, tensor in zip(TENSORS, tasks[index].tensors, strict=False):
                said = f"{name} of task {index} of the {tasks.split} split must be finite."
                assert torch.isfinite(tensor).all(), said


def global_labels_keep_the_tasks(subject: Subject) -> None:
    """`with_global_labels` changes class indices only: equal ones stay equal, others different."""
    for tasks in subject.each():
        try:
            twin = tasks.with_global_labels()
        except MetaLensError as error:
            raise SkipTest(str(error)) from error
        for index in subject.indices:
            task, numbered = tasks[index], twin[index]
            where = f"of task {index} of the {tasks.split} split"
            for name, one, other in zip(("support", "query"), task[:2], numbered[:2], strict=True):
                assert torch.equal(one.x, other.x), f"with_global_labels must keep the {name} inputs {where}."
                if one.y.is_floating_point():
                    assert torch.equal(one.y, other.y), (
                        f"with_global_labels must keep the {name} targets {where}."
                    )
                    continue
                pairs = set(zip(one.y.tolist(), other.y.tolist(), strict=True))
                alike = len(pairs) == len(one.y.unique()) == len(other.y.unique())
                assert alike, f"with_global_labels must give each class {where} one number of its own."
                n = tasks.n_classes
                fits = n is None or bool((other.y < n).all() and (other.y >= 0).all())
                assert fits, f"with_global_labels must number classes from 0 to n_classes - 1 = {n}, {where}."


def seeds_give_different_tasks(subject: Subject) -> None:
    """Another seed gives other tasks."""
    for one, other in zip(subject.each(0), subject.each(1), strict=True):
        equal = all(same(one[index], other[index]) for index in subject.indices)
        assert not equal, (
            f"The tasks of seed 0 and of seed 1 must differ, but are equal in the {one.split} split; pass "
            "seeded=False where tasks hold all of their examples."
        )
