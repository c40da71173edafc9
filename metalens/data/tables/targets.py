"""The targets of a table: numbers, which may be standardized, or classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from metalens.data.tables.reading import (
    class_numbers,
    is_text,
    numbers,
    refuse_missing,
    scale_of,
    standardized,
)
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["auto", "regression", "classification"]
Standardize = Literal["train", "task", "none"]


def read_targets(
    column: pd.Series, kind: Kind, known: Sequence[Any] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return real targets, `(rows, 1)`, or class numbers, `(rows,)`, and the names of the classes.

    The classes are the `known` ones in their order, or those of the column, sorted.
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    refuse_missing(column, "leave the row out, or set missing='drop'")
    if kind == "regression" or (
        kind == "auto" and not pd.api.types.is_bool_dtype(column.dtype) and not is_text(column)
    ):
        return numbers(column)[:, None], ()
    if known is None:
        codes, classes = pd.factorize(column.astype(str) if is_text(column) else column, sort=True)
    else:
        codes, classes = class_numbers(column, known), known
    if len(classes) < 2:
        raise MetaLensError(f"Column {column.name} names one class, {classes[0]}, in all rows; give two.")
    if kind == "auto" and 2 * len(classes) > len(column):
        raise MetaLensError(
            f"Column {column.name} names {len(classes)} classes in {len(column)} rows, such as "
            f"{classes[0]!r}; correct it if these are numbers, or set kind='classification'."
        )
    return codes.astype(np.int64), tuple(map(str, classes))


def scaled_targets(
    y: np.ndarray,
    column: pd.Series,
    standardize: Standardize,
    train_rows: np.ndarray,
    tasks: Iterable[np.ndarray],
) -> tuple[np.ndarray, float, float]:
    """Return standardized targets, `(rows, 1)` float32, with the mean and deviation of the training rows.

    `column` names the target in errors; `tasks` are the rows of each task.
    """
    mean, deviation = 0.0, 1.0
    if standardize == "train" and len(train_rows):
        mean, deviation = scale_of(y[train_rows])
        y = standardized(y, column, mean, deviation)
    if standardize == "task":
        y = y.copy()
        for rows in tasks:
            if len(rows):
                y[rows] = (y[rows] - y[rows].mean()) / (y[rows].std() or 1.0)
    return y.astype(np.float32), mean, deviation
