"""Which held-out tasks are drawn, how often, and with how many support rows."""

import warnings
from collections.abc import Iterator, Mapping

from metalens.data import TableTasks, TaskDistribution
from metalens.estimators.episodes import Episodes

SHOTS = (0, 1, 3, 5, 10, 20)  # support rows for which models are chosen too
MIN_DRAWS = 30  # of held-out tasks; fewer ones are drawn repeatedly, with other support rows
MAX_DRAWS_PER_TASK = 4
_MIN_TASKS = 5  # of a split that are large enough for a number of support rows


def n_named(tasks: TaskDistribution) -> int:
    """Return the number of named tasks; 0 for episodes, which are unlimited."""
    return 0 if isinstance(tasks, Episodes) else len(getattr(tasks, "task_names", ()))


def n_drawn(tasks: TaskDistribution) -> int:
    """Return the number of draws of held-out tasks: one of each, or up to four if there are few."""
    n = n_named(tasks)
    return n * min(MAX_DRAWS_PER_TASK, -(-MIN_DRAWS // n)) if n else MIN_DRAWS


def with_other_shots(
    tasks: Mapping[str, TaskDistribution], k_shot: int
) -> Iterator[tuple[int, Mapping[str, TableTasks]]]:
    """Yield other numbers of support rows, and the held-out tasks of a table that have as many.

    Most tasks must have them, and at least five of each split.
    """
    tables = {split: of_split for split, of_split in tasks.items() if isinstance(of_split, TableTasks)}
    if len(tables) < len(tasks):  # episodes of new classes
        return
    for other in SHOTS:
        n_large = {split: len(of_split.large_tasks(other)) for split, of_split in tables.items()}
        if other == k_shot or any(
            n < max(_MIN_TASKS, len(tables[split].task_names) / 2) for split, n in n_large.items()
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the usual size has said which tasks are small
            sized = {split: of_split.with_shots(other) for split, of_split in tables.items()}
        yield other, sized
