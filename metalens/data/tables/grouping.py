"""Which rows of a table belong to a task, to a split and to each other, and what they say of their task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from metalens.data.splits import divided, property_of_tasks, splits_of_column
from metalens.data.tables.reading import is_text, refuse_missing
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_DISJOINT_SHARES = (0.5, 0.25, 0.25)  # of values, in training, validation and testing


def rows_by_task(codes: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the rows of every task, in the order of the names, which is that of the codes."""
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    return dict(zip(names, np.split(np.argsort(codes, kind="stable"), ends[:-1]), strict=True))


def split_of_tasks(
    frame: pd.DataFrame,
    rows_of: Mapping[str, np.ndarray],
    splits: str | Sequence[float],
    split_seed: int | None,
    stratify: str | None,
) -> Mapping[str, str]:
    """Return the split of every task by name; see `TableTasks` for the settings."""
    if isinstance(splits, str):
        return splits_of_column(frame[splits], rows_of)
    strata = None if stratify is None else property_of_tasks(frame[stratify], rows_of, "stratify")
    return divided(rows_of, splits, strata=strata, seed=split_seed, instead="a column or ")


def kept_apart(
    values: np.ndarray, rows_of: Mapping[str, np.ndarray], split_of: Mapping[str, str], seed: int | None
) -> dict[str, np.ndarray]:
    """Return the rows of every task whose values belong to the split of the task."""
    split_of_value = divided(set(values.tolist()), _DISJOINT_SHARES, seed=seed)
    split_of_row = np.array([split_of_value[value] for value in values.tolist()])
    return {name: rows[split_of_row[rows] == split_of[name]] for name, rows in rows_of.items()}


def for_support_by_role(column: pd.Series) -> np.ndarray:
    """Return which rows a column calls support rows, `(rows,)` bool; the others are query rows."""
    words = column.astype(str).to_numpy()
    stray = np.flatnonzero(~np.isin(words, ["support", "query"]))
    if len(stray):
        raise MetaLensError(
            f"Row {column.index[stray[0]] + 1} of column {column.name} must say support or query, got "
            f"{words[stray[0]]!r}; correct it."
        )
    return words == "support"


def digests(array: np.ndarray) -> np.ndarray:
    """Return a digest of the inputs of every row: equal where these are, and nowhere else."""
    rows = np.ascontiguousarray(array.reshape(len(array), -1))
    return np.array([blake2b(row, digest_size=16).digest() for row in rows], dtype=object)


def pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return numbers, `(rows,)`, that are equal where both codes are."""
    return np.unique(first.astype(np.int64) * (int(second.max()) + 1) + second, return_inverse=True)[1]


def units_of(keys: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the unit of every row: rows that agree in a key, at once or through others, are of one unit."""
    if len(keys) < 2:
        return keys[0] if keys else None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = keys
    n, m = int(first.max()) + 1, int(second.max()) + 1
    links = coo_array((np.ones(len(first)), (first, second + n)), shape=(n + m, n + m))
    return connected_components(links, directed=False)[1][first]


def refuse_duplicates(frame: pd.DataFrame, same: np.ndarray, task: str) -> None:
    """Refuse rows of a task with equal inputs, which have equal numbers in `same`; with their rows."""
    order = np.argsort(same, kind="stable")
    again = np.flatnonzero(np.diff(same[order]) == 0)
    if len(again):
        one, other = order[again[0]], order[again[0] + 1]
        raise MetaLensError(
            f"Rows {frame.index[one] + 1} and {frame.index[other] + 1} of task {frame[task].iloc[one]} have "
            f"the same inputs, the first of {len(again)} such pairs; leave one out, or set "
            "duplicates='together'."
        )


def refuse_divided(frame: pd.DataFrame, units: np.ndarray, for_support: np.ndarray, task: str) -> None:
    """Refuse units of which some rows are support rows and others query rows; with the rows of the first."""
    n = int(units.max()) + 1
    both = (np.bincount(units[for_support], minlength=n) > 0) & (
        np.bincount(units[~for_support], minlength=n) > 0
    )
    if both.any():
        rows = np.flatnonzero(units == both.argmax())
        numbers = ", ".join(str(frame.index[row] + 1) for row in rows[:5])
        raise MetaLensError(
            f"Rows {numbers} of task {frame[task].iloc[rows[0]]} belong together, by their group or as "
            "duplicates, and are both support and query; correct roles, or set duplicates='allow'."
        )


def descriptors_of_tasks(
    column: pd.Series, rows_of: Mapping[str, np.ndarray], names: Sequence[str], train: Sequence[str]
) -> np.ndarray:
    """Return what a column says of tasks as numbers, `(tasks, p)`."""
    refuse_missing(column, "fill it, or leave the row out")
    of_task = property_of_tasks(column, rows_of, "descriptors")
    if is_text(column):
        words = sorted(set(of_task.values()))
        return np.array([[of_task[name] == word for word in words] for name in names], dtype=float)
    values = {name: float(value) for name, value in of_task.items()}
    known = np.array([values[name] for name in train or names])
    return ((np.array([values[name] for name in names]) - known.mean()) / (known.std() or 1.0))[:, None]
