"""Tasks of several domains in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from metalens.data.base import BatchedTasks, TaskDistribution
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task, stack_tasks


class MultiDomain(BatchedTasks):
    """Tasks of D distributions in turn: number i is number `i // D` of the `(i mod D)`-th.

    So a batch of a multiple of D tasks has equally many of each domain, and so has a test. The descriptors of
    a task say which domain it is of: 1 for its own, 0 for the others.

    Args:
        domains: distributions by the names of their domains, all of one split and with tasks of equal shapes
            and fields.
        unseen: names of those domains that training does not have, whose scores are also reported together.

    Raises:
        MetaLensError: there are no domains, they are of several splits or fields, or an unseen one is not
            among them.

    >>> from metalens import Harmonic, Sinusoid
    >>> both = MultiDomain({"sine": Sinusoid("test"), "harmonic": Harmonic("test")}, unseen=["harmonic"])
    >>> both.domain(3), both.batch(range(4)).descriptors.tolist()
    ('harmonic', [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, domains: Mapping[str, TaskDistribution], *, unseen: Sequence[str] = ()) -> None:
        splits = {tasks.split for tasks in domains.values()}
        if len(splits) != 1:
            found = ", ".join(sorted(splits)) or "none"
            raise MetaLensError(f"domains must be at least one, and all of one split, got {found}.")
        if unknown := set(unseen) - domains.keys():
            found = ", ".join(sorted(unknown))
            raise MetaLensError(f"unseen must name some of {', '.join(domains)}, got {found}.")
        first = next(iter(domains.values()))
        super().__init__(first.split, seed=first.seed)
        self.domains = dict(domains)
        self.unseen_domains = tuple(unseen)
        self.metrics, self.extra_metrics, self.fields = first.metrics, first.extra_metrics, first.fields
        for name, tasks in domains.items():
            if tasks.fields != self.fields:
                raise MetaLensError(
                    f"All domains must have equal fields, and {name} has {tasks.fields}, not {self.fields}."
                )
        sizes = [tasks.n_classes for tasks in domains.values()]
        self.n_classes = sum(size for size in sizes if size is not None) if None not in sizes else None
        self._offsets: dict[str, int] | None = None

    def domain(self, index: int) -> str:
        return list(self.domains)[index % len(self.domains)]

    def task_name(self, index: int) -> str:
        """Return the name of a task in its domain, after the name of the domain."""
        name = self.domain(index)
        return f"{name} {self.domains[name].task_name(index // len(self.domains))}"

    def source(self, index: int) -> str | None:
        name = self.domain(index)
        source = self.domains[name].source(index // len(self.domains))
        return None if source is None else f"{name} {source}"

    def metadata(self) -> dict[str, Any]:
        facts: dict[str, Any] = {name: tasks.metadata() for name, tasks in self.domains.items()}
        return facts | ({"unseen": list(self.unseen_domains)} if self.unseen_domains else {})

    def with_global_labels(self) -> MultiDomain:
        """Return the same tasks with the classes of all domains numbered one after the other."""
        pooled = {name: tasks.with_global_labels() for name, tasks in self.domains.items()}
        twin = MultiDomain(pooled, unseen=self.unseen_domains)
        ends = accumulate((tasks.n_classes or 0 for tasks in self.domains.values()), initial=0)
        twin._offsets = dict(zip(self.domains, ends, strict=False))
        return twin

    def _make_batch(self, numbers: list[int]) -> Task:
        tasks: dict[int, Task] = {}
        for place, (name, of_domain) in enumerate(self.domains.items()):
            where = [at for at, number in enumerate(numbers) if number % len(self.domains) == place]
            if not where:
                continue
            batch = of_domain.batch([numbers[at] // len(self.domains) for at in where])
            descriptor = torch.eye(len(self.domains))[place]
            for row, at in enumerate(where):
                sides = (Examples(part.x[row], part.y[row]) for part in batch[:2])
                support, query = (self._numbered(examples, name) for examples in sides)
                tasks[at] = Task(support, query, descriptor)
        return stack_tasks([tasks[at] for at in range(len(numbers))])

    def _numbered(self, examples: Examples, name: str) -> Examples:
        if self._offsets is None or examples.y.is_floating_point():
            return examples
        return Examples(examples.x, examples.y + self._offsets[name])
