"""One division of a table: every way of relating tasks, on the same new tasks and rows."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from metalens import MultiTaskGP, TableTasks
from metalens.data.splits import hashed_order
from tools.relations.bank import Bank, Episode, Rows, Settings
from tools.tables.problems import Problem, load

N_FOLDS = 5
MOST_TASKS = 150  # of a table, the first by their hashes
MOST_QUERIES = 100
LEAST_QUERIES = 6
N_DRAWS = 3
OWN = (0.03, 0.1, 0.3, 1.0)
GRID = [Settings(*pair) for pair in itertools.product((0.3, 1.0, 3.0), OWN)]
CHOICES = {"tuned": [Settings(0.0, own) for own in OWN], "regression": GRID, "bound": GRID}
ARMS = ("none", "equal", "learned", "tuned", "regression", "shuffled", "bound")


def measure(problem: Problem, k: int, seed: int, fold: int) -> pd.DataFrame:
    """Return the skills of all arms on the tasks of a fold: rows `task, arm, skill`, means over draws.

    The settings of `CHOICES` have the best mean skill on the validation tasks.
    """
    train, val, test = divided(problem, k, seed, fold)
    processes = {name: MultiTaskGP(1, relations=name) for name in ("none", "equal", "learned")}
    for process in processes.values():
        process.prepare(train)
    bank = Bank(processes["equal"], train)
    chosen, found = {}, [(episode, y) for _, episode, y, _ in _episodes(bank, val)]
    for arm, grid in CHOICES.items():
        skills = [np.mean([skill(e.predict(s, bound=arm == "bound"), y) for e, y in found]) for s in grid]
        chosen[arm] = grid[int(np.argmax(skills))]
    rows = []
    for task, episode, y, (support, x) in _episodes(bank, test):
        predictions = {
            name: process.estimate(support.x, support.y[:, None], x, classes=False)[:, 0]
            for name, process in processes.items()
        }
        predictions |= {arm: episode.predict(s, bound=arm == "bound") for arm, s in chosen.items()}
        predictions["shuffled"] = episode.predict(chosen["regression"], shuffled=True)
        rows += [(task, arm, skill(predictions[arm], y)) for arm in ARMS]
    frame = pd.DataFrame(rows, columns=["task", "arm", "skill"])
    means = frame.groupby(["task", "arm"], sort=False)["skill"].mean().reset_index()
    settings = {f"{arm}_{name}": v for arm, s in chosen.items() for name, v in s._asdict().items()}
    return means.assign(**settings)


def skill(predicted: np.ndarray, y: np.ndarray) -> float:
    """Return the share of the variance of targets that is explained, at least -1.

    >>> skill(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    0.5
    """
    spread = np.square(y - y.mean()).sum()
    return max(-1.0, 1 - float(np.square(predicted - y).sum() / max(spread, 1e-12)))


def divided(problem: Problem, k: int, seed: int, fold: int) -> list[TableTasks]:
    """Return the tasks for training, for the choice of settings, and for testing."""
    frame = load(problem)
    counts = frame[problem.task].value_counts()
    large = hashed_order(counts.index[counts >= k + LEAST_QUERIES], 0)[:MOST_TASKS]
    names = hashed_order(large, seed)
    splits = {name: "test" if place % N_FOLDS == fold else "train" for place, name in enumerate(names)}
    known = [name for name, split in splits.items() if split == "train"]
    splits |= dict.fromkeys(known[:: N_FOLDS + 1], "val")
    roles = {name: value for name, value in problem.columns().items() if name != "order"}
    frame = frame[frame[problem.task].isin(names)].reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on columns, and on small tasks
        train = TableTasks(frame, "train", splits=splits, k_shot=k, n_query=None, seed=seed, **roles)
        return [train, train.in_split("val"), train.in_split("test")]


def _episodes(
    bank: Bank, tasks: TableTasks
) -> Iterator[tuple[str, Episode, np.ndarray, tuple[Rows, np.ndarray]]]:
    """Yield the name of a task, its episode, the targets to predict, and its support and inputs as they are.

    One half of the query rows tell the bound's weights, and the other half are predicted.
    """
    for number in range(len(tasks.task_names) * N_DRAWS):
        support, query = map(Rows.of, tasks[number][:2])
        half = min(MOST_QUERIES, len(query.y)) // 2
        telling = Rows(query.x[:half], query.y[:half])
        x, y = query.x[half:MOST_QUERIES], query.y[half:MOST_QUERIES]
        yield tasks.task_name(number), Episode(bank, support, telling, x), y, (support, x)
