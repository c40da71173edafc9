"""A table that is read, checked, encoded and grouped once, for all splits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division, descriptors_of_tasks, units_of_rows
from metalens.data.tables.drawing import MIN_QUERY, TaskRows
from metalens.data.tables.encoding import TableInputs, ready_made
from metalens.data.tables.molecules import warn_of_equal
from metalens.data.tables.reading import note_bounds, note_markers, refuse_missing
from metalens.data.tables.targets import Kind, Standardize, read_targets, scaled_targets
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    from metalens.data.tables.columns import Table


@dataclass(frozen=True, eq=False)
class EncodedTable:
    """The examples of a table, of all tasks of all splits."""

    tasks: Mapping[str, TaskRows]  # by name, sorted
    split_of: Mapping[str, str]
    train: Sequence[str]  # the tasks to train on, to which everything is fitted
    raw_targets: np.ndarray  # real (rows, 1), or class numbers (rows,)
    inputs: Tensor  # (rows, *input_shape)
    targets: Tensor  # standardized
    descriptors: Tensor | None  # (tasks, p)
    encoding: TableInputs | None  # None for ready-made inputs
    class_names: tuple[str, ...]  # empty for real targets
    target_mean: float = 0.0
    target_deviation: float = 1.0


def encode_table(
    table: Table,
    columns: Columns,
    division: Division,
    *,
    k_shot: int,
    n_query: int | None,
    choose: Callable[[Collection[str]], list[str]],
    n_bits: int,
    kind: Kind,
    classes: Sequence[Any] | None,
    standardize: Standardize,
    descriptors: Sequence[str],
) -> EncodedTable:
    """Read, check, encode and group a table; see `TableTasks`.

    `choose` returns the tasks to train on, given the names of those with enough rows.
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if columns.task is None:
        raise MetaLensError(
            "task must name the column with the task of a row, or wide those of tasks; got none."
        )
    columns.refuse_for_wide([*division.task_columns, *descriptors])
    frame = columns.read(table, text=[*division.row_columns, *division.task_columns])
    names = columns.input_columns(frame, [*division.task_columns, *descriptors, *division.row_columns])
    array = np.empty(0)
    if isinstance(columns.inputs, np.ndarray | Tensor):
        array = ready_made(columns.inputs, len(frame))
    kept = columns.kept_rows(frame, [columns.target, *(names or [])])
    if len(kept) < len(frame):
        frame, array = frame.iloc[kept], array[kept] if names is None else array
    for name in (columns.task, columns.group, *division.row_columns):
        if name is not None:
            refuse_missing(frame[name], "fill it, or leave the row out")
    note_markers(frame[columns.task])

    codes, task_names = pd.factorize(frame[columns.task].to_numpy(dtype=str), sort=True)
    rows_of, split_of = division.divide(frame, codes, task_names.tolist(), columns.smiles)
    y, class_names = read_targets(frame[columns.target], kind, classes)
    labels, for_support, ranks = y if class_names else None, division.for_support(frame), columns.ranks(frame)
    if for_support is not None and ranks is not None:
        raise MetaLensError("roles and order both say which rows are support; give one of them.")

    def tasks(units: np.ndarray | None) -> dict[str, TaskRows]:
        return {
            name: TaskRows.of_table(rows, units, labels, for_support, ranks) for name, rows in rows_of.items()
        }

    of_train = {name: rows for name, rows in tasks(None).items() if split_of[name] == "train"}
    train = choose([name for name, rows in of_train.items() if rows.is_enough(k_shot, n_query)])
    if not train and (names is not None or (standardize == "train" and labels is None)):
        raise MetaLensError(
            f"Scales are those of the training tasks, and of {len(of_train)} none has "
            f"{min_rows(k_shot, n_query)}; lower them, or give the train split more tasks."
        )
    train_rows = np.concatenate([rows_of[name] for name in train]) if train else np.arange(0)
    encoding = None
    if names is not None:
        encoding = TableInputs.fit(
            frame.iloc[train_rows], names, categorical=columns.categorical, smiles=columns.smiles,
            n_bits=n_bits, chirality=columns.chirality, count=columns.count, missing=columns.missing,
        )  # fmt: skip
        array = encoding.transform(frame)
        if columns.smiles is not None:
            warn_of_equal(frame[columns.smiles], encoding.fingerprints(frame))
    known = [descriptors_of_tasks(frame[name], rows_of, train) for name in descriptors]
    targets, scale = y, ()
    if not class_names:
        note_bounds(frame)
        targets, *scale = scaled_targets(y, frame[columns.target], standardize, train_rows, rows_of.values())
    grouped = tasks(units_of_rows(frame, columns, codes, array, for_support))
    if columns.duplicates is None and columns.smiles is None:
        independent = replace(columns, duplicates="allow")
        apart = tasks(units_of_rows(frame, independent, codes, array, for_support))
        grouped = _divisible(grouped, apart, k_shot, n_query)
    properties = torch.from_numpy(np.concatenate(known, axis=1)).float() if known else None
    inputs, targets = torch.from_numpy(array), torch.from_numpy(targets)
    of_all = inputs, targets, properties, encoding, class_names
    return EncodedTable(grouped, split_of, train, y, *of_all, *scale)


def _divisible(
    together: dict[str, TaskRows], apart: dict[str, TaskRows], k_shot: int, n_query: int | None
) -> dict[str, TaskRows]:
    """Return the tasks with rows of equal inputs together if most can be divided so; apart with a note."""
    n_together, n_apart = (
        sum(rows.is_enough(k_shot, n_query) for rows in tasks.values()) for tasks in (together, apart)
    )
    if 2 * n_together >= n_apart:
        return together
    warnings.warn(
        f"Only {n_together} of {n_apart} tasks can be divided with rows of equal inputs on one side, so that "
        "such rows are taken as independent; to keep them together all the same, set "
        "duplicates='together'.",
        stacklevel=5,
    )
    return apart


def min_rows(k_shot: int, n_query: int | None) -> str:
    """Return the number of rows that a task needs, for messages."""
    return f"k_shot + n_query = {k_shot + (n_query or MIN_QUERY)} rows"
