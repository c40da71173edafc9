"""Reading and validation of the files of a finished run."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import TemplateError
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from metalens.errors import MALFORMED, MetaLensError, reraise_as
from metalens.io.json import read_json
from metalens.metrics import METRICS
from metalens.statistics.arms import ARM

# The columns of every file: texts and numbers.
COLUMNS = {
    "results.csv": ([*ARM, "split", "metric"], ["seed", "task", "value"]),
    "metrics.csv": ([*ARM, "split", "metric"], ["seed", "step", "value"]),
    "curves.csv": ([*ARM, "part"], ["seed", "task", "x", "y", "before", "after"]),
    "relations.csv": (ARM, ["seed", "row", "column", "relation"]),
}
OPTIONAL = {"curves.csv", "relations.csv"}
MEASURED = {"value", "before", "after", "relation"}  # may be missing or infinite
MAX_NUMBER = 1e15  # of other columns, such as steps and coordinates
_TIME = (int, float)
MANIFEST: dict[str, Any] = {
    **dict.fromkeys(["metalens", "recipe", "description", "command", "device", "started"], str),
    **dict.fromkeys(["configuration", "machine", "versions"], dict),
    "commit": (str, type(None)), "threads": int, "seconds": _TIME,
    "arms": [{**dict.fromkeys([*ARM, "settings"], str), "parameters": int}],
    "cells": [{**dict.fromkeys(ARM, str), "seed": int, "train_seconds": _TIME, "test_seconds": _TIME}],
    "failures": [{**dict.fromkeys([*ARM, "reason"], str), "seed": int}],
}  # fmt: skip


def read_results(directory: str | Path) -> pd.DataFrame:
    """Return a finished run's scores, a row per arm, seed, test task and metric.

    Returns:
        Rows `recipe, learner, regularizers, sampler, seed, split, task, metric, value`.

    Raises:
        MetaLensError: the file is missing, damaged or lacks a column.
    """
    return _read(Path(directory) / "results.csv")


def read_metrics(directory: str | Path) -> pd.DataFrame:
    """Return a finished run's learning curves: loss terms and diagnostics in training, scores in validation.

    Returns:
        Rows `learner, regularizers, sampler, seed, step, split, metric, value`.

    Raises:
        MetaLensError: the file is missing, damaged or lacks a column.
    """
    return _read(Path(directory) / "metrics.csv")


def read_tables(directory: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of a finished run by file name, without absent optional ones.

    Raises:
        MetaLensError: a file is missing, damaged or lacks a column.
    """
    names = [name for name in COLUMNS if name not in OPTIONAL or (directory / name).is_file()]
    return {name: _read(directory / name) for name in names}


def read_together(directories: Sequence[str | Path]) -> pd.DataFrame:
    """Return the scores of several runs as if they were one, see `read_results`.

    An arm of several runs has the name of its run as a prefix, or counts once if its scores are equal in all.

    Raises:
        MetaLensError: as `read_results`; or runs with an arm in common have equal names.
    """
    scored: dict[tuple[str, ...], list[tuple[str, pd.DataFrame]]] = {}
    for directory in map(Path, directories):
        for arm, rows in read_results(directory).groupby(ARM, sort=False):
            of_arm = scored.setdefault(arm, [])
            if not any(_same_scores(rows, others) for _, others in of_arm):
                of_arm.append((directory.resolve().name, rows))
    frames = []
    for (learner, *_), of_arm in scored.items():
        names = [name for name, _ in of_arm]
        if len(set(names)) < len(names):
            raise MetaLensError(f"Several runs are named {names[0]} and have the same arm; rename a folder.")
        frames += [
            rows.assign(learner=learner if len(of_arm) == 1 else f"{name}: {learner}")
            for name, rows in of_arm
        ]
    return pd.concat(frames, ignore_index=True)


def _same_scores(rows: pd.DataFrame, others: pd.DataFrame) -> bool:
    key = ["seed", "task", "metric"]
    return rows.set_index(key)["value"].sort_index().equals(others.set_index(key)["value"].sort_index())


def _read(path: Path) -> pd.DataFrame:
    def damaged(reason: str) -> MetaLensError:
        return MetaLensError(f"{path} is damaged: {reason}; run it again.")

    if not path.is_file():
        raise MetaLensError(f"{path.parent} is not a finished run: {path.name} is missing.")
    texts, numbers = COLUMNS[path.name]
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise MetaLensError(f"{path} is damaged ({error}); run it again.") from error
    if missing := [column for column in (*texts, *numbers) if column not in table]:
        needed = ", ".join((*texts, *numbers))
        raise damaged(f"it must have the columns {needed}, and lacks {', '.join(missing)}")
    if path.name == "results.csv" and (unknown := set(table["metric"].dropna()) - METRICS.keys()):
        raise MetaLensError(
            f"{path} has metrics that are not known ({', '.join(sorted(unknown))}); add them to "
            "metalens.metrics.METRICS, or run it again."
        )
    if table.empty and path.name == "metrics.csv":
        return table  # nothing was trained
    if table.empty:
        raise damaged("it has no rows")
    for column in (*texts, *numbers):
        cells = table[column]
        if column in numbers and (not is_numeric_dtype(cells) or is_bool_dtype(cells)):
            raise damaged(f"its column {column} has other things than numbers")
        if column in numbers and column not in MEASURED and (cells.abs() > MAX_NUMBER).any():
            raise damaged(f"its column {column} has numbers beyond all measure")
        if column not in MEASURED and cells.isna().any():
            raise damaged(f"its column {column} has empty cells")
    return table


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a finished run.

    Raises:
        MetaLensError: the file is missing, damaged or lacks a key.
    """
    path = directory / "manifest.json"
    if not path.is_file():
        raise MetaLensError(f"{directory} is not a finished run: manifest.json is missing.")
    return read_json(path, "run it again", MANIFEST)


def naming_damage(folder: Path, remedy: str) -> AbstractContextManager[None]:
    """Report errors from the content of files in a folder as `MetaLensError`, with a remedy."""
    said = f"The files in {folder} are damaged or of another version"
    return reraise_as(said, f"{remedy} again", (*MALFORMED, TemplateError))
