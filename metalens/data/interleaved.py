"""A part of a stream of tasks, for one of several models that shall not train on the same ones."""

from __future__ import annotations

from collections.abc import Sequence

from metalens.data.base import TaskDistribution
from metalens.tasks import Task


class Interleaved(TaskDistribution):
    """Every n-th task of a distribution: task i is its task `i n + number`.

    Models of an ensemble that meet other tasks, in another order, err more differently than models that
    differ in initialization alone.

    Args:
        tasks: what is divided.
        number: which of the n strands, from 0.
        n: how many there are.

    >>> from metalens import Sinusoid
    >>> tasks = Sinusoid()
    >>> bool((Interleaved(tasks, 1, 3)[2].query.y == tasks[7].query.y).all())
    True
    """

    def __init__(self, tasks: TaskDistribution, number: int, n: int) -> None:
        super().__init__(tasks.split, seed=tasks.seed)
        self.tasks, self.number, self.n = tasks, number, n
        self.n_classes, self.equal_sizes = tasks.n_classes, tasks.equal_sizes

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index * self.n + self.number]

    def batch(self, indices: Sequence[int]) -> Task:
        return self.tasks.batch([index * self.n + self.number for index in indices])

    def task_name(self, index: int) -> str:
        return self.tasks.task_name(index * self.n + self.number)

    def domain(self, index: int) -> str | None:
        return self.tasks.domain(index * self.n + self.number)

    def source(self, index: int) -> str | None:
        return self.tasks.source(index * self.n + self.number)

    @property
    def pool_size(self) -> int | None:
        return self.tasks.pool_size

    def with_global_labels(self) -> Interleaved:
        return Interleaved(self.tasks.with_global_labels(), self.number, self.n)
