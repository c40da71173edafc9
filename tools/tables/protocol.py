"""Which tasks are held out, which of their rows are known, and which are to be predicted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metalens.data.splits import hashed_order
from tools.tables.problems import Problem

N_FOLDS = 5
SHOTS = (0, 3, 5, 10, 20)  # known rows of a new task
N_DRAWS = 3
COVERAGE = 0.9  # of intervals
LEAST_QUERY = 2  # rows to predict; a task with fewer takes no part


@dataclass(frozen=True)
class Fold:
    """What is known of the tasks that are not held out.

    Attributes:
        problem: the table.
        number: of the fold, from 0.
        train: all rows of the training tasks.
    """

    problem: Problem
    number: int
    train: pd.DataFrame

    @property
    def y(self) -> np.ndarray:
        """The targets of the training rows: numbers, or 1 for the second class in alphabetical order."""
        return targets(self.problem, self.train, self.classes)

    @property
    def groups(self) -> np.ndarray:
        """The tasks of the training rows."""
        return self.train[self.problem.task].to_numpy(str)

    @property
    def classes(self) -> list[str]:
        """The two classes; none of numbers."""
        column = self.train[self.problem.target]
        return sorted(column.unique()) if self.problem.kind == "class" else []


@dataclass(frozen=True)
class Episode:
    """A held-out task of which some rows are known.

    Attributes:
        task: its name.
        support: the known rows.
        query: the rows to predict, without the column of the targets.
    """

    task: str
    support: pd.DataFrame
    query: pd.DataFrame


def fold_of_tasks(frame: pd.DataFrame, problem: Problem) -> dict[str, int]:
    """Return the fold in which each task is held out, by the place of its hash."""
    names = hashed_order(frame[problem.task].unique(), seed=0)
    return {name: place % N_FOLDS for place, name in enumerate(names)}


def split(frame: pd.DataFrame, problem: Problem, number: int) -> tuple[Fold, pd.DataFrame]:
    """Return the training tasks of a fold, and the rows of its held-out tasks."""
    held_out = frame[problem.task].map(fold_of_tasks(frame, problem)) == number
    return Fold(problem, number, frame[~held_out]), frame[held_out]


def episodes(held_out: pd.DataFrame, problem: Problem, k: int, draw: int) -> Iterator[Episode]:
    """Yield the held-out tasks that have enough rows, with the first k rows of a draw known.

    The order of a task's rows is that of their times, or depends on the table, the task and the draw only:
    it is the same for all methods, and fewer known rows are a part of more.
    """
    for task, rows in held_out.groupby(problem.task, sort=True):
        if len(rows) < k + LEAST_QUERY:
            continue
        if problem.order is None:
            rows = rows.iloc[row_order(len(rows), f"{problem.name}/{task}/{draw}")]
        else:
            rows = rows.sort_values(problem.order, kind="stable")
        yield Episode(str(task), rows.iloc[:k], rows.iloc[k:].drop(columns=problem.target))


def row_order(n: int, name: str) -> np.ndarray:
    """Return the random order in which the n rows of a task become known, by the hash of a name."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8])).permutation(n)


def targets(problem: Problem, rows: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return targets: numbers, or 1 for the second class and 0 for the first."""
    column = rows[problem.target]
    if problem.kind == "class":
        return (column == classes[1]).to_numpy(float)
    return column.to_numpy(float)
