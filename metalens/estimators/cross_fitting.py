"""Cross-fitting of few tasks: each is held out once, by folds, and the models that adapt learn from all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from metalens.data import TableTasks
from metalens.data.base import Split
from metalens.data.splits import SHARES, hashed_order
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.data.tables.reading import check_columns
from metalens.estimators.notes import note_repeats
from metalens.estimators.tables import TableReader, fit_reader
from metalens.estimators.training import TrainingTasks
from metalens.metrics import METRICS, primary_metric

if TYPE_CHECKING:
    import pandas as pd

MIN_TASKS = 10
MAX_TASKS = 60  # from here on, 15 % are the nine held-out tasks that intervals of 90 % need
N_FOLDS = 5
EVERY_TASK = (1.0, 0.0, 0.0)  # shares of the splits


class Fold(NamedTuple):
    """The tasks of a fold, which are held out, and those of the other folds.

    Attributes:
        reader: fitted to the tasks of the other folds.
        tasks: of the other folds; those of the next fold decide which weights are kept.
        held_out: of the fold.
    """

    reader: TableReader
    tasks: TrainingTasks
    held_out: TableTasks


class TableParts(NamedTuple):
    """The tasks of a table, and the reader fitted to those for training.

    Attributes:
        reader: fitted to the training tasks.
        tasks: of each split; with folds all are for training.
        folds: of few tasks; otherwise none.
    """

    reader: TableReader
    tasks: Mapping[Split, TableTasks]
    folds: Sequence[Fold]


def divide_table(
    columns: Columns, frame: pd.DataFrame, division: Division, *, may_fold: bool, **settings: Any
) -> TableParts:
    """Divide the tasks of a table into splits or, if they are few, into folds.

    Folds are made of 10 to 59 tasks that have enough rows, if the user has given no splits or families and
    no molecules. The notes on the table come once.

    Args:
        columns: their roles.
        frame: from `read`.
        division: into splits.
        may_fold: whether there is time for folds.
        settings: of `fit_reader`.
    """
    is_usual = tuple(division.splits) == SHARES and division.families is None and columns.smiles is None
    folds = _folds(columns, frame, division, settings) if may_fold and is_usual else []
    if folds:
        reader, train = fit_reader(columns, frame, replace(division, splits=EVERY_TASK), **settings)
        return TableParts(reader, {"train": train}, folds)
    reader, train = fit_reader(columns, frame, division, **settings)
    tasks: dict[Split, TableTasks] = {split: train.in_split(split) for split in get_args(Split)}
    if columns.smiles is not None:
        note_repeats(tasks, columns)
    return TableParts(reader, tasks, [])


def _folds(
    columns: Columns, frame: pd.DataFrame, division: Division, settings: Mapping[str, Any]
) -> list[Fold]:
    check_columns(frame, [columns.task])
    names = np.unique(frame[columns.task].to_numpy(dtype=str)).tolist()
    if not MIN_TASKS <= len(names) < MAX_TASKS:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is used says it
        _, whole = fit_reader(columns, frame, replace(division, splits=EVERY_TASK), **settings)
        if len(whole.task_names) < MIN_TASKS:
            return []
        order = hashed_order(whole.task_names, division.split_seed)
        parts = [order[number::N_FOLDS] for number in range(N_FOLDS)]
        found = []
        for held_out, following in zip(parts, parts[1:] + parts[:1], strict=True):
            splits = dict.fromkeys(names, "train") | dict.fromkeys(held_out, "test")
            reader, known = fit_reader(columns, frame, replace(division, splits=splits), **settings)
            train = known.with_validation(following)
            tasks = TrainingTasks(known, train, train.in_split("val"))
            found.append(Fold(reader, tasks, known.in_split("test")))
        return found


def side_by_side(folds: Sequence[Fold]) -> list[list[int]]:
    """Return the numbers of folds, those together whose networks have equally many inputs."""
    groups: dict[int, list[int]] = {}
    for number, fold in enumerate(folds):
        groups.setdefault(len(fold.reader.encoding.names), []).append(number)
    return list(groups.values())


def best_steps(curve: pd.DataFrame) -> dict[str, int]:
    """Return for every model the median, over folds and seeds, of the step with the best validation.

    Args:
        curve: rows `model, fold, seed, step, split, metric, value`.

    >>> import pandas as pd
    >>> rows = [("R2D2", fold, 0, step, "val", "mse", (step - 50 * fold) ** 2)
    ...         for fold in (1, 2, 9) for step in range(50, 600, 50)]
    >>> columns = ["model", "fold", "seed", "step", "split", "metric", "value"]
    >>> best_steps(pd.DataFrame(rows, columns=columns))
    {'R2D2': 100}
    """
    rows = curve[curve["split"] == "val"]
    if rows.empty:
        return {}
    metric = primary_metric(rows["metric"])
    rows = rows[(rows["metric"] == metric) & np.isfinite(rows["value"])]
    gains = (METRICS[metric].sign * rows["value"]).groupby([rows[name] for name in ("model", "fold", "seed")])
    best = rows.loc[gains.idxmax()]
    return {str(model): int(of_model.median()) for model, of_model in best.groupby("model")["step"]}
