"""The targets of a table: which kind they are, and numbers, which may be standardized, or classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from metalens.data.tables.cells import content, distinct, is_bound, numbers, plain
from metalens.data.tables.reading import (
    class_numbers,
    note_markers,
    scale_of,
    standardized,
)
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["auto", "regression", "classification"]
Standardize = Literal["train", "task", "none"]

_FEW = 10  # different whole numbers that may be grades
_REPEATS = 4  # rows with each of them


def kind_of_target(column: pd.Series, kind: Kind = "auto") -> Literal["regression", "classification"]:
    """Return whether a column is predicted as numbers or as classes, and say so where it can be doubted.

    `kind` decides if it is given. Otherwise words and truth values are classes, as are two whole numbers,
    such as 0 and 1; other numbers are numbers.

    Args:
        column: of the target, from `read_table`.
        kind: what the user says.

    Raises:
        MetaLensError: words are too many to be classes, or bounds of numbers such as `>10000`.

    >>> import pandas as pd
    >>> kind_of_target(pd.Series([0.5, 1.5, 2.5])), kind_of_target(pd.Series(["no", "yes"] * 2))
    ('regression', 'classification')
    """
    if kind != "auto":
        return kind
    column = plain(column)
    found, cells = content(column), column.dropna()
    if found in ("dates", "spans"):
        numbers(column)  # refuses them
    if found == "booleans":
        return "classification"
    if found == "numbers":
        return _kind_of_numbers(column)
    if 2 * cells.nunique() > len(cells):
        raise MetaLensError(
            f"Column {column.name} holds {cells.nunique()} different words in {len(cells)} rows, such as "
            f"{cells.iloc[0]!r}; correct it if these are numbers, or set the kind to classification (--kind)."
        )
    return "classification"


def _kind_of_numbers(column: pd.Series) -> Literal["regression", "classification"]:
    if column.dtype == object:  # some cells are no numbers
        words = distinct(column)
        bounds = sum(is_bound(cell) for cell in column.dropna())
        if bounds and len(words) <= _FEW:
            raise MetaLensError(
                f"Column {column.name} holds numbers and {bounds} bounds such as "
                f"{next(word for word in words if is_bound(word))!r}; set the kind to classification "
                f"(--kind) if its {len(words)} words are classes, or leave out the rows with bounds."
            )
        numbers(column)  # refuses them, naming the row
    values, counts = np.unique(numbers(column.dropna()), return_counts=True)
    if (values % 1 != 0).any() or not 2 <= len(values) <= _FEW or counts.mean() < _REPEATS:
        return "regression"
    two = len(values) == 2
    kinds = ("classes", "regression") if two else ("numbers", "classification")
    warnings.warn(
        f"Column {column.name} holds {len(values)} different whole numbers, {_shown(values)}, which are "
        f"predicted as {kinds[0]}; set the kind to {kinds[1]} (--kind) to change that.",
        stacklevel=4,
    )
    return "classification" if two else "regression"


def note_classes(column: pd.Series) -> None:
    """Say where a column that is predicted as numbers may hold classes."""
    values = np.unique(numbers(column.dropna()))
    if len(values) == 2 and (values % 1 == 0).all():
        warnings.warn(
            f"Column {column.name} holds two whole numbers, {_shown(values)}, which become numbers; "
            "MetaClassifier predicts classes (--kind classification).",
            stacklevel=4,
        )


def check_classes(column: pd.Series) -> None:
    """Refuse real numbers and dates as classes, and say where numbers with bounds become classes."""
    column = plain(column)
    if column.dtype.kind == "f" and (column.dropna() % 1 != 0).any():
        raise MetaLensError(
            f"Column {column.name} holds real numbers, and classes must be words or whole numbers; use "
            "MetaRegressor for real numbers."
        )
    if (found := content(column)) in ("dates", "spans"):
        numbers(column)  # refuses them
    if found == "numbers" and column.dtype == object and len(words := distinct(column)) > _FEW:
        warnings.warn(
            f"Column {column.name} holds numbers and other words, such as {words[0]!r}, which become "
            f"{len(words)} classes; correct them and use MetaRegressor (--kind regression) for numbers.",
            stacklevel=4,
        )


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values)


def read_targets(
    column: pd.Series, kind: Kind, known: Sequence[Any] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return real targets, `(rows, 1)`, or class numbers, `(rows,)`, and the names of the classes.

    The classes are the `known` ones in their order, or those of the column, sorted.
    """
    if kind_of_target(column, kind) == "regression":
        return numbers(column)[:, None], ()
    classes = classes_of(column) if known is None else known
    if len(classes) < 2:
        raise MetaLensError(f"Column {column.name} names one class, {classes[0]}, in all rows; give two.")
    return class_numbers(column, classes), tuple(map(str, classes))


def classes_of(column: pd.Series) -> list[Any]:
    """Return the sorted classes of a column: words, whole numbers or truth values; empty cells have none.

    >>> import pandas as pd
    >>> classes_of(pd.Series(["no", "yes", None])), classes_of(pd.Series([3.0, 1.0]))
    (['no', 'yes'], [1, 3])
    """
    column = plain(column)
    if column.dtype == object and not isinstance(column.dropna().iloc[:1].squeeze(), bool):
        note_markers(column)
        return list(distinct(column))
    values = sorted(set(column.dropna().tolist()))
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]


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
