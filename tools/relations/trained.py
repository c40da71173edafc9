"""Train a learner on the tasks of a division, and measure it on those that are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pandas as pd
import torch

from metalens import Learner, Objective, TableTasks, Task, TaskDistribution, Validation, fit
from metalens.tasks import Examples, stack_trimmed
from tools.relations.cell import MOST_QUERIES, N_DRAWS, skill

N_QUERY = 20  # of a task in training
N_TRAIN = 2000  # different draws of training tasks
STEPS, VALIDATE_EVERY = 1000, 250


class Episodes(TaskDistribution):
    """Tasks of a table with their first queries, kept once they are drawn.

    Args:
        tasks: a table's tasks.
        most_queries: of a task.
    """

    equal_sizes = False

    def __init__(self, tasks: TableTasks, most_queries: int) -> None:
        super().__init__(tasks.split, seed=tasks.seed)
        self.tasks, self.most_queries = tasks, most_queries
        self.draw = cache(self.drawn)

    def drawn(self, index: int) -> Task:
        """Return task number `index`, below `N_TRAIN`."""
        support, query = (Examples(part.x.flatten(1), part.y) for part in self.tasks[index][:2])
        return Task(support, Examples(*(part[: self.most_queries] for part in query)))

    def __getitem__(self, index: int) -> Task:
        return self.draw(index % N_TRAIN)

    def task_name(self, index: int) -> str:
        return self.tasks.task_name(index % N_TRAIN)

    def batch(self, indices: Sequence[int]) -> Task:
        return stack_trimmed([self[number] for number in indices])

    def examples_by_task(self, n: int) -> dict[str, Examples]:
        found = self.tasks.examples_by_task(len(self.tasks.task_names))
        return {name: Examples(x.flatten(1), y) for name, (x, y) in list(found.items())[:n]}


def train_and_test(
    build: Callable[[int], Learner],
    episodes: Callable[[TableTasks, int], Episodes],
    division: Sequence[TableTasks],
    seed: int,
    outer_lr: float = 1e-3,
) -> pd.DataFrame:
    """Return the skills of a trained learner on held-out tasks: rows `task, skill`, means over draws.

    Args:
        build: makes the learner for a number of inputs.
        episodes: makes those of a split, with a number of queries at most.
        division: tasks for training, validation, which keeps the best weights, and testing.
        seed: of the weights and of training.
        outer_lr: step size of the outer loop.
    """
    train, val, test = division
    tasks, held_out, new = (
        episodes(split, most) for split, most in ((train, N_QUERY), (val, MOST_QUERIES), (test, MOST_QUERIES))
    )
    torch.manual_seed(seed)
    learner = build(tasks[0].support.x.shape[1])
    validation = Validation(held_out, n_tasks=N_DRAWS * len(val.task_names), every=VALIDATE_EVERY)
    settings = {"steps": STEPS, "meta_batch_size": 8, "outer_lr": outer_lr, "seed": seed}
    fit(Objective(learner), tasks, validation=validation, **settings)
    return skills(learner, new)


def skills(learner: Learner, episodes: Episodes) -> pd.DataFrame:
    """Return the skills of a learner on the tasks of a split: rows `task, skill`, means over draws."""
    rows = []
    for number in range(N_DRAWS * len(episodes.tasks.task_names)):
        support, query = episodes[number][:2]
        with torch.no_grad():
            predicted = learner(support)(query.x)[:, 0].numpy()
        rows.append((episodes.task_name(number), skill(predicted, query.y[:, 0].numpy())))
    return pd.DataFrame(rows, columns=["task", "skill"]).groupby("task", sort=False).mean().reset_index()
