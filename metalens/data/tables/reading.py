"""Tables as data frames with plain columns, and checks of their cells, with the place of every mistake."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from metalens.data.checks import as_array
from metalens.data.npz import read_npz
from metalens.data.tables.cells import MARKERS, Vocabulary, names, plain, spell
from metalens.data.tables.files import read_file, refuse_equal
from metalens.data.tables.places import where
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_ON_CELLS = ("Row", "Column", "The table", "The support", "All rows", "The molecule")  # how such errors begin
_N_NAMED = 20  # columns in a message
_RELATIONS = {"=", "~", "<", ">", "<=", ">=", "<<", ">>", "≤", "≥"}  # of a value and its bound
MAX_DEVIATIONS = 1e9  # from the mean, so that squares and products stay finite


def read_table(
    table: pd.DataFrame | str | os.PathLike[str],
    *,
    text: Sequence[str] = (),
    levels: Sequence[str] = (),
    sep: str | None = None,
    encoding: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
) -> pd.DataFrame:
    """Return a table with its rows numbered from 0, and columns of numbers, booleans, dates or words.

    A data frame and the file that it was written to are the same table, whatever the types of its columns.
    Nameless columns of a CSV file, such as the row numbers that data frames write, are left out with a
    warning. Spaces around names and cells are ignored.

    Args:
        table: a data frame, or the path of a file, which may be compressed: `.csv` and other text with a
            header; `.parquet`, `.npz` (see `frame_of_arrays`), `.jsonl`, `.json`, `.arff` and `.sdf`.
        text: columns of names, even if they look like numbers, such as `007`.
        levels: names that may also be levels of the index of a data frame.
        sep: between the columns of a text file; `None` for comma, tab, semicolon or bar, as its lines show.
        encoding: of a text file without a byte-order mark, such as `"cp1252"`; `None` for UTF-8.
        decimal: point of numbers that are written as text.
        thousands: mark between their thousands, if there is one.

    Raises:
        MetaLensError: the file cannot be read as a table, has no rows, has two columns of one name, or may be
            a decompression bomb.
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if isinstance(table, pd.DataFrame):
        name, frame = "The table", _with_levels(table, levels)
    else:
        name, as_text = os.fspath(table), decimal != "." or thousands
        frame = _of_path(name, sep, encoding, None if as_text else text)
    if len(frame) == 0:
        raise MetaLensError(f"{name} has no rows; give a table with at least one.")
    frame = frame.set_axis([str(column).strip() for column in frame.columns], axis=1).reset_index(drop=True)
    refuse_equal(name, frame.columns.tolist())
    with naming_file(table):
        columns = {
            str(key): names(column) if key in text else plain(column, decimal=decimal, thousands=thousands)
            for key, column in frame.items()
        }
    return pd.DataFrame(columns, index=frame.index)


def rows_as_written(
    table: str | os.PathLike[str], sep: str | None = None, encoding: str | None = None
) -> pd.DataFrame:
    """Return the rows of a file with all cells as they are written; see `read_table`."""
    frame = _of_path(os.fspath(table), sep, encoding, None)
    return frame.set_axis([str(column).strip() for column in frame.columns], axis=1).reset_index(drop=True)


def _of_path(path: str, sep: str | None, encoding: str | None, text: Sequence[str] | None) -> pd.DataFrame:
    if path.endswith(".npz"):
        return frame_of_arrays(read_npz(path))
    return read_file(path, sep=sep, encoding=encoding, text=text)


def _with_levels(frame: pd.DataFrame, wanted: Sequence[str]) -> pd.DataFrame:
    """Return a data frame with those levels of its index as columns that are wanted and not there."""
    present = {str(column).strip() for column in frame.columns}
    found = [name for name in frame.index.names if name is not None and str(name) in {*wanted} - present]
    return frame.reset_index(level=found) if found else frame


@contextmanager
def naming_file(table: Any) -> Iterator[None]:
    """Put the path of a table before errors on its rows and columns."""
    try:
        yield
    except MetaLensError as error:
        is_path = isinstance(table, str | os.PathLike) and os.fspath(table) not in str(error)
        if not is_path or not str(error).startswith(_ON_CELLS):
            raise
        raise MetaLensError(f"{os.fspath(table)}: {error}") from error


def frame_of_arrays(arrays: Mapping[str, Any]) -> pd.DataFrame:
    """Return arrays `(rows,)` and `(rows, d)` as a table, of one and of d columns.

    Raises:
        MetaLensError: an array has another shape or length, or holds objects.

    >>> frame_of_arrays({"x": np.zeros((3, 2)), "y": [1, 2, 3]}).columns.tolist()
    ['x 0', 'x 1', 'y']
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    columns: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        array = as_array(values, str(name))
        if array.ndim == 2:
            columns |= {f"{name} {place}": column for place, column in enumerate(array.T)}
        elif array.ndim == 1:
            columns[str(name)] = array
        else:
            raise MetaLensError(
                f"Array {name} must have one or two axes, got {array.shape}; flatten it, or use ArrayTasks."
            )
    if len(lengths := {len(column) for column in columns.values()}) > 1:
        raise MetaLensError(f"Arrays must have one entry for each row, got the lengths {sorted(lengths)}.")
    return pd.DataFrame(columns)


def check_columns(frame: pd.DataFrame, names: Sequence[Any]) -> None:
    """Raise a `MetaLensError` if the table lacks a column."""
    if missing := [str(name) for name in names if name not in frame.columns]:
        known = ", ".join(map(str, frame.columns[:_N_NAMED]))
        known += f" and {len(frame.columns) - _N_NAMED} more" if len(frame.columns) > _N_NAMED else ""
        raise MetaLensError(f"The table has no column {', '.join(missing)}; it has {known}.")


def note_bounds(frame: pd.DataFrame) -> None:
    """Warn of a column of relations, such as `>`, that says which values are only bounds."""
    for name, column in frame.items():
        if column.dtype != object or not isinstance(column.dropna().iloc[:1].squeeze(), str):
            continue
        counts = column.value_counts()
        marks = {str(word).strip("' ") for word in counts.index}
        if not (marks <= _RELATIONS and marks - {"=", "~"}):
            continue
        said = ", ".join(f"{word} {n}" for word, n in counts.items() if str(word).strip("' ") not in "=~")
        warnings.warn(
            f"Column {name} says that rows hold bounds ({said}), whose values are used as if they were "
            "exact; leave such rows out if they are values of the target.",
            stacklevel=5,
        )


def note_markers(column: pd.Series) -> None:
    """Warn of words that often stand for an empty cell."""
    counts = column[column.isin(MARKERS)].value_counts()
    if counts.empty:
        return
    what = ", ".join(f"{word!r} {n} times" for word, n in counts.items())
    warnings.warn(
        f"Column {column.name} says {what}, which counts as a word like any other; leave the cells empty if "
        "nothing is known there.",
        stacklevel=5,
    )


def refuse_missing(column: pd.Series, remedy: str) -> None:
    """Raise a `MetaLensError` if a column has an empty cell."""
    empty = column.isna().to_numpy()
    if empty.any():
        cell, n = where(column, int(empty.argmax())), int(empty.sum())
        raise MetaLensError(f"{cell} is empty, the first of {n}; {remedy}.")


def scale_of(x: np.ndarray) -> tuple[float, float]:
    """Return the mean and the standard deviation of numbers; 1 if they differ by rounding alone.

    >>> scale_of(np.full(7, 0.1))[1], scale_of(np.array([1.0, 3.0]))
    (1.0, (2.0, 1.0))
    """
    if x.size == 0:
        return 0.0, 1.0
    mean, deviation = float(x.mean()), float(x.std())
    return mean, deviation if deviation > 8 * np.finfo(float).eps * abs(mean) else 1.0


def standardized(x: np.ndarray, column: pd.Series, mean: float, deviation: float) -> np.ndarray:
    """Return the numbers of a column as `(x - mean) / deviation`; missing ones stay nan.

    Raises:
        MetaLensError: a number is more than 1e9 deviations from the mean.
    """
    x = (x - mean) / deviation
    far = np.abs(x) > MAX_DEVIATIONS
    if far.any():
        row = int(far.reshape(len(x), -1).any(1).argmax())
        raise MetaLensError(
            f"{where(column, row)} is {column.iloc[row]}, more than "
            f"{MAX_DEVIATIONS:g} standard deviations from the mean of the training tasks; correct it or "
            "leave the row out."
        )
    return x


def class_numbers(column: pd.Series, classes: Sequence[Any]) -> np.ndarray:
    """Return the class number of each cell of a column, `(n,)` int64.

    Args:
        column: words, numbers or booleans, none missing.
        classes: words, numbers or booleans, which cells may spell otherwise; see `Vocabulary`.

    Raises:
        MetaLensError: a cell names another class.

    >>> import pandas as pd
    >>> class_numbers(pd.Series(["no", "yes"]), ["no", "yes"]), class_numbers(pd.Series([1.0]), [0, 1])
    (array([0, 1]), array([1]))
    """
    found = Vocabulary([spell(label, column) for label in classes]).codes(column)
    if (stray := found < 0).any():
        row = int(stray.argmax())
        raise MetaLensError(
            f"{where(column, row)} must be one of the classes "
            f"{', '.join(map(str, classes))}, got {str(column.iloc[row])!r}; correct it or leave it out."
        )
    return found
