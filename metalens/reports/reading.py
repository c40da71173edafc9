"""Reading the files of a finished run, with every damage named."""

from __future__ import annotations

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

# The columns of every file; those of the second kind must be numbers.
COLUMNS = {
    "results.csv": ([*ARM, "split", "metric"], ["seed", "task", "value"]),
    "metrics.csv": ([*ARM, "split", "metric"], ["seed", "step", "value"]),
    "curves.csv": ([*ARM, "part"], ["seed", "task", "x", "y", "before", "after"]),
    "relations.csv": (ARM, ["seed", "row", "column", "relation"]),
}
OPTIONAL = {"curves.csv", "relations.csv"}
MEASURED = {"value", "before", "after", "relation"}  # may be missing or infinite: not a number, but a result
LARGEST = 1e15  # of what is counted or drawn, as steps and coordinates are
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
    """Return the tables of a finished run by file name; optional ones are left out where they are absent.

    Raises:
        MetaLensError: a file is missing, damaged or lacks a column.
    """
    names = [name for name in COLUMNS if name not in OPTIONAL or (directory / name).is_file()]
    return {name: _read(directory / name) for name in names}


def read_together(directories: Sequence[str | Path]) -> pd.DataFrame:
    """Return the scores of several runs as if they were one, see `read_results`.

    An arm that several runs have is named after its run, unless its scores are the same in all; it then
    counts once.

    Raises:
        MetaLensError: as `read_results`; or the runs have equal names and share an arm.
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
    if not path.is_file():
        raise MetaLensError(f"{path.parent} is not a finished run: {path.name} is missing.")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[path.name][0], str))
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise MetaLensError(f"{path} is damaged ({error}); run it again.") from error
    texts, numbers = COLUMNS[path.name]
    missing = [column for column in (*texts, *numbers) if column not in table]
    if missing:
        raise MetaLensError(
            f"{path} is damaged: it must have the columns {', '.join((*texts, *numbers))}, and lacks "
            f"{', '.join(missing)}; run it again."
        )
    if path.name == "results.csv" and (unknown := set(table["metric"].dropna()) - METRICS.keys()):
        raise MetaLensError(
            f"{path} has metrics that are not known ({', '.join(sorted(unknown))}); add them to "
            "metalens.metrics.METRICS, or run it again."
        )
    if table.empty and path.name == "metrics.csv":
        return table  # nothing was trained
    if table.empty:
        raise MetaLensError(f"{path} is damaged: it has no rows; run it again.")
    for column in (*texts, *numbers):
        if column in numbers and (not is_numeric_dtype(table[column]) or is_bool_dtype(table[column])):
            raise MetaLensError(
                f"{path} is damaged: its column {column} has other things than numbers; run it again."
            )
        if column in numbers and column not in MEASURED and (table[column].abs() > LARGEST).any():
            raise MetaLensError(
                f"{path} is damaged: its column {column} has numbers beyond all measure; run it again."
            )
        if column not in MEASURED and table[column].isna().any():
            raise MetaLensError(f"{path} is damaged: its column {column} has empty cells; run it again.")
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
    """Say that the files are damaged where nothing can be drawn or told from them.

    Args:
        folder: with the files.
        remedy: what to do again.

    Raises:
        MetaLensError: the block failed for what it found in the files.
    """
    said = f"The files in {folder} are damaged or of another version"
    return reraise_as(said, f"{remedy} again", (*MALFORMED, TemplateError))
