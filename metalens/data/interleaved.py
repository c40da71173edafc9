"""A part of a stream of tasks, for one of several models that train on different tasks."""

from __future__ import annotations

from collections.abc import Sequence

from metalens.data.base import TaskDistribution
from metalens.tasks import Examples, Task


class Interleaved(TaskDistribution):
    """Every n-th task of a distribution: task i is its task `i n + number`, with `number` from 0 to n - 1.

    Models of an ensemble that train on different tasks err more differently than models that differ in
    initialization alone.

    >>> from metalens import Sinusoid
    >>> bool((Interleaved(Sinusoid(), 1, 3)[2].query.y == Sinusoid()[7].query.y).all())
    True
    """

    def __init__(self, tasks: TaskDistribution, number: int, n: int) -> None:
        super().__init__(tasks.split, seed=tasks.seed)
        self.tasks, self.number, self.n = tasks, number, n
        self.n_classes, self.equal_sizes, self.fields = tasks.n_classes, tasks.equal_sizes, tasks.fields

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

    def examples_by_task(self, n: int) -> dict[str, Examples]:
        of_all = self.tasks.examples_by_task(n * self.n)
        return {name: of_all[name] for name in dict.fromkeys(map(self.task_name, range(n)))}

    def with_global_labels(self) -> Interleaved:
        return Interleaved(self.tasks.with_global_labels(), self.number, self.n)
