"""Which held-out tasks are drawn, how often, and with how many support rows."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metalens.data import TableTasks, TaskDistribution
from metalens.data.base import Split
from metalens.estimators.episodes import Episodes

if TYPE_CHECKING:
    from metalens.estimators.compared import ComparedModels
    from metalens.estimators.models import Candidate

SHOTS = (0, 1, 3, 5, 10, 20)  # support rows for which models are chosen too
MIN_DRAWS = 30  # of held-out tasks; fewer ones are drawn repeatedly, with other support rows
MAX_DRAWS_PER_TASK = 4
_MIN_TASKS = 5  # of a split that are large enough for a number of support rows


def n_named(tasks: TaskDistribution) -> int:
    """Return the number of named tasks; 0 for episodes, which are unlimited."""
    return 0 if isinstance(tasks, Episodes) else len(getattr(tasks, "task_names", ()))


def sizes_of(tasks: Mapping[Split, TaskDistribution]) -> dict[str, dict[str, int]]:
    """Return the numbers of tasks, rows, classes and so on of each split."""
    found = {split: of_split.metadata() for split, of_split in tasks.items()}
    return {
        split: {name: value for name, value in facts.items() if isinstance(value, int)}
        for split, facts in found.items()
    }


def n_drawn(tasks: TaskDistribution, n_all: int | None = None) -> int:
    """Return the number of draws of held-out tasks: one of each, or up to four if there are few.

    `n_all` is how many there are in all, if these are a part of them.
    """
    n = n_named(tasks)
    return n * min(MAX_DRAWS_PER_TASK, -(-MIN_DRAWS // (n_all or n))) if n else MIN_DRAWS


@dataclass(frozen=True)
class HeldOut:
    """Held-out tasks, and the models that have not seen them.

    Attributes:
        estimator: whose models these are.
        candidates: its models.
        split: `val` if the tasks decided which weights were kept, or `test`.
        tasks: held out.
    """

    estimator: ComparedModels
    candidates: Sequence[Candidate]
    split: Split
    tasks: TaskDistribution


def numbers_of_draws(parts: Sequence[HeldOut]) -> list[int]:
    """Return how often the tasks of each part are drawn, by how many there are in all parts of the split."""
    n_all = _counts(parts, [n_named(part.tasks) for part in parts])
    return [n_drawn(part.tasks, n_all[part.split]) for part in parts]


def with_other_shots(parts: Sequence[HeldOut], k_shot: int) -> Iterator[tuple[int, list[HeldOut]]]:
    """Yield other numbers of support rows, and the held-out tasks of a table that have as many.

    Most tasks must have them, and at least five of each split.
    """
    tables = [part.tasks for part in parts if isinstance(part.tasks, TableTasks)]
    if len(tables) < len(parts):  # episodes of new classes
        return
    n_all = _counts(parts, [len(of_part.task_names) for of_part in tables])
    for other in SHOTS:
        sizes = [len(of_part.large_tasks(other)) for of_part in tables]
        n_large = _counts(parts, sizes)
        if other == k_shot or any(n < max(_MIN_TASKS, n_all[split] / 2) for split, n in n_large.items()):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the usual size has said which tasks are small
            of_parts = zip(parts, tables, sizes, strict=True)
            sized = [replace(part, tasks=tasks.with_shots(other)) for part, tasks, n in of_parts if n]
        yield other, sized


def _counts(parts: Sequence[HeldOut], numbers: Sequence[int]) -> Counter[str]:
    """Return the sums over the parts of each split."""
    counts: Counter[str] = Counter()
    for part, n in zip(parts, numbers, strict=True):
        counts[part.split] += n
    return counts
