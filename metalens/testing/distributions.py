"""The contract of task distributions."""

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
    and after pickling. A batch equals its tasks stacked. Splits share no task: `source` names different
    tasks, or, where it is `None`, no two splits have an equal support or query set, and those of classes
    have no input in common. Shapes and types are those of `metalens.Examples`, the same for all tasks; all
    numbers are finite; another seed gives other tasks; and `with_global_labels` changes class indices only,
    to those of the whole split.

    Args:
        factory: returns the distribution of a split and a seed, such as
            `lambda split, seed: Sinusoid(split, seed=seed)`.
        splits: which splits to check.
        n_tasks: number of tasks of each split.
        seeded: whether the seed changes tasks; it does not where a task has all of its examples, in order.

    Returns:
        The names of the checks that apply; all hold.

    Raises:
        AssertionError: a check does not hold.

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
    subject = Subject(factory, tuple(splits), range(n_tasks))
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
    """The tasks to check: those of the given indices, in some splits of a distribution."""

    factory: Factory
    splits: tuple[Split, ...]
    indices: range

    def each(self, seed: int = 0) -> Iterator[TaskDistribution]:
        """Yield a new distribution of every split."""
        return (self.factory(split, seed) for split in self.splits)

    def each_task(self) -> Iterator[tuple[TaskDistribution, int, str]]:
        """Yield each distribution and index, with words for messages."""
        for tasks in self.each():
            for index in self.indices:
                yield tasks, index, f"task {index} of the {tasks.split} split"


def _same(one: Task, other: Task) -> bool:
    """Return whether two tasks are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


def _metadata(tasks: TaskDistribution, index: int) -> tuple[str, str | None, str | None]:
    return tasks.task_name(index), tasks.domain(index), tasks.source(index)


def tasks_are_functions_of_their_index(subject: Subject) -> None:
    """A task is the same when it is drawn again, in another order or from another instance."""
    for one, other in zip(subject.each(), subject.each(), strict=True):
        first = [one[index] for index in subject.indices]
        for index in reversed(subject.indices):
            where = f"Task {index} of the {one.split} split"
            assert _same(one[index], first[index]), f"{where} must be the same when it is drawn again."
            assert _same(other[index], first[index]), f"{where} must not depend on tasks drawn before it."
            got, expected = _metadata(other, index), _metadata(one, index)
            assert got == expected, (
                f"{where} must have the same name, domain and source in every instance, got {expected} and "
                f"{got}."
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
                message = f"Task {index} of the {tasks.split} split must be the same after pickling."
                assert _same(copy[index], tasks[index]), message
                assert _metadata(copy, index) == _metadata(tasks, index), message


def batch_equals_stacked_tasks(subject: Subject) -> None:
    """A batch, in any order and with repetitions, is its tasks stacked."""
    for tasks in subject.each():
        numbers = [*reversed(subject.indices), 0, 0]
        for indices in [numbers] if tasks.equal_sizes else [[index] for index in numbers]:
            stacked = stack_tasks([tasks[index] for index in indices])
            assert _same(tasks.batch(indices), stacked), (
                f"batch({indices}) of the {tasks.split} split must equal the stacked tasks."
            )


def splits_are_disjoint(subject: Subject) -> None:
    """No two splits share a task."""
    if len(subject.splits) < 2:
        raise SkipTest("There is one split.")
    found: dict[object, str] = {}
    for tasks, index, where in subject.each_task():
        for unique, description in _unique_values(tasks, index):
            split = found.setdefault(unique, tasks.split)
            assert split == tasks.split, (
                f"Splits must not share a task, but {description} of {where} is in the {split} split too."
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
    for tasks, index, where in subject.each_task():
        task = tasks[index]
        _check_shapes(task, where)
        types.add(tuple(tensor.dtype for tensor in task.tensors))
        of_support, of_query = [(*examples.x.shape[1:], *examples.y.shape[1:]) for examples in task[:2]]
        shapes.add(of_support)
        assert of_support == of_query, (
            f"Support and query examples must have one shape, got {of_support} and {of_query} in {where}."
        )
    assert len(types) == 1, f"All tasks must have the same types, got {sorted(map(str, types))}."
    assert len(shapes) == 1, f"Examples of all tasks must have one shape, got {sorted(shapes)}."


def _check_shapes(task: Task, where: str) -> None:
    for name, (x, y) in zip(("support", "query"), task[:2], strict=True):
        assert len(x) == len(y) > 0, f"{where}: the {name} set has {len(x)} inputs and {len(y)} targets."
        if y.is_floating_point():
            assert y.dim() == 2, f"{where}: real targets must be (n, c), got {tuple(y.shape)} ({name})."
        else:
            right, got = (
                y.dim() == 1 and y.dtype == torch.int64 and y.min() >= 0,
                f"{y.dtype} {tuple(y.shape)}",
            )
            assert right, f"{where}: class indices must be int64 of (n,), 0 or more, got {got}."
    shape = tuple(task.descriptors.shape)
    assert len(shape) == 1, f"{where}: descriptors must be (p,), got {shape}."


def numbers_are_finite(subject: Subject) -> None:
    """All numbers of all tensors are finite."""
    for tasks, index, where in subject.each_task():
        for name, tensor in zip(TENSORS, tasks[index].tensors, strict=True):
            assert torch.isfinite(tensor).all(), f"{name} of {where} must be finite."


def global_labels_keep_the_tasks(subject: Subject) -> None:
    """`with_global_labels` changes class indices only: equal ones stay equal, others different."""
    for tasks in subject.each():
        try:
            twin = tasks.with_global_labels()
        except MetaLensError as error:
            raise SkipTest(str(error)) from error
        for index in subject.indices:
            where = f"of task {index} of the {tasks.split} split"
            for name, one, other in zip(("support", "query"), tasks[index][:2], twin[index][:2], strict=True):
                assert torch.equal(one.x, other.x), f"with_global_labels must keep the {name} inputs {where}."
                if one.y.is_floating_point():
                    same = torch.equal(one.y, other.y)
                    assert same, f"with_global_labels must keep the {name} targets {where}."
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
        assert not all(_same(one[index], other[index]) for index in subject.indices), (
            f"The tasks of seed 0 and of seed 1 must differ, but are equal in the {one.split} split; pass "
            "seeded=False if tasks hold all of their examples."
        )
