"""Reading tables: files into data frames, and cells into numbers, with the place of every mistake."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metalens.data.checks import as_array
from metalens.data.npz import read_npz
from metalens.errors import MetaLensError, extra

if TYPE_CHECKING:
    import pandas as pd

MAX_UNPACKED = 2**30  # bytes of a compressed file; what is larger must not be packed 100 times tighter
MAX_NUMBER = 1e30  # in a cell: single precision ends at 3e38
MAX_DEVIATIONS = 1e9  # from the mean, so that squares and products stay finite

_PARQUET = (".parquet", ".pq")
_PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_OTHER_SEPARATORS = ";\t|"


def read_table(table: pd.DataFrame | str | os.PathLike[str], *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table with its rows numbered from 0.

    Nameless columns of a CSV file, such as the row numbers that data frames write, are left out with a
    warning. Spaces around names and before cells are ignored.

    Args:
        table: a data frame, or the path of a Parquet file (`.parquet`, `.pq`), an `.npz` file (see
            `frame_of_arrays`) or a CSV file in UTF-8, with a header and commas, which may be compressed.
        text: columns of a CSV file to read as text, even if they look like numbers, such as `007`.

    Raises:
        MetaLensError: the file cannot be read as a table, has no rows, has two columns of one name, or may be
            a decompression bomb.
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    frame = table if isinstance(table, pd.DataFrame) else _read_file(table, text)
    name = "The table" if isinstance(table, pd.DataFrame) else os.fspath(table)
    if len(frame) == 0:
        raise MetaLensError(f"{name} has no rows; give a table with at least one.")
    frame = frame.set_axis([str(column).strip() for column in frame.columns], axis=1)
    _refuse_equal(name, frame.columns.tolist())
    return frame.reset_index(drop=True)


def _refuse_equal(name: str, columns: Sequence[str]) -> None:
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise MetaLensError(f"{name} has several columns named {', '.join(twice)}; rename them.")


def _read_file(path: str | os.PathLike[str], text: Sequence[str]) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    name = os.fspath(path)
    try:
        if name.endswith(_PARQUET):
            with extra("parquet"):
                import pyarrow  # noqa: F401 # pyright: ignore[reportMissingImports]
            return pd.read_parquet(path)
        if name.endswith(".npz"):
            return frame_of_arrays(read_npz(path))
        _refuse_bomb(name)
        return _read_csv(path, text)
    except (MetaLensError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise MetaLensError(f"There is no file {name}; correct the path.") from error
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise MetaLensError(f"{name} is not in UTF-8 ({where}); save it as a CSV file in UTF-8.") from error
    except pd.errors.EmptyDataError as error:
        raise MetaLensError(f"{name} is empty; give a CSV file with a header and rows.") from error
    except pd.errors.ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise MetaLensError(f"Cannot read {name} as a table ({reason}); correct that line.") from error
    except pd.errors.ParserWarning as error:
        raise MetaLensError(
            f"{name} has rows with more cells than its header has names; name all."
        ) from error
    except Exception as error:  # damage shows as one of a dozen types
        reason = type(error).__name__
        raise MetaLensError(f"Cannot read {name} as a table ({reason}); give CSV or Parquet.") from error


def _read_csv(path: str | os.PathLike[str], text: Sequence[str]) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    file = os.fspath(path)
    # pandas would number equal names, and shift all columns if rows have more cells than the header.
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False,
                         encoding="utf-8-sig", skipinitialspace=True)  # fmt: skip
    names = [str(name).strip() for name in header.iloc[0]]
    if len(names) == 1 and (mark := next((mark for mark in _OTHER_SEPARATORS if mark in names[0]), None)):
        raise MetaLensError(
            f"{file} has {mark!r} between its columns; save it with commas there, and points in numbers."
        )
    nameless = [place for place, name in enumerate(names, 1) if not name]
    names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    _refuse_equal(file, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(path, header=0, names=names, index_col=False, dtype=dict.fromkeys(text, str),
                            low_memory=False, encoding="utf-8-sig", skipinitialspace=True)  # fmt: skip
    if nameless:
        warnings.warn(
            f"{len(nameless)} of the {len(names)} columns of {file} have no name in the header (the first is "
            f"column {nameless[0]}) and are left out; name them to use them.",
            stacklevel=4,
        )
    return frame.drop(columns=[f"column {place}" for place in nameless])


def _refuse_bomb(name: str) -> None:
    """Refuse a compressed file that unpacks to far more than a table of its size."""
    extension = os.path.splitext(name)[1]
    if extension not in {*_PACKED, ".zip"}:
        return
    size, most = 0, max(MAX_UNPACKED, 100 * os.path.getsize(name))
    if extension == ".zip":
        with zipfile.ZipFile(name) as archive:
            size = sum(member.file_size for member in archive.infolist())
    else:
        with _PACKED[extension](name) as file:
            while size <= most and (part := file.read(2**20)):
                size += len(part)
    if size > most:
        raise MetaLensError(
            f"{name} unpacks to more than {most:,} bytes and may be a decompression bomb; unpack it to use."
        )


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
        known = ", ".join(map(str, frame.columns))
        raise MetaLensError(f"The table has no column {', '.join(missing)}; it has {known}.")


def is_text(column: pd.Series) -> bool:
    """Return whether a column holds words: its type is not numeric, and nor are most of its cells.

    Numbers with a decimal comma are not words: reading them as numbers raises a clear error.

    >>> import pandas as pd
    >>> is_text(pd.Series(["red", "2"])), is_text(pd.Series(["1", "2,5", "?"])), is_text(pd.Series([1, 2]))
    (True, False, False)
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    cells = column.dropna()
    found = pd.to_numeric(cells, errors="coerce")
    if 2 * int(found.notna().sum()) <= len(cells):
        found = pd.to_numeric(cells.astype(str).str.replace(",", "."), errors="coerce")
    return 2 * int(found.notna().sum()) <= len(cells)


def numbers(column: pd.Series) -> np.ndarray:
    """Return a column as numbers, `(n,)`; missing ones are nan.

    Raises:
        MetaLensError: a cell is not a number within 1e30; rows are counted from 1, below the header.

    >>> import pandas as pd
    >>> numbers(pd.Series(["1", None, "x", "4"], name="dose"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Row 3 of column dose must be a number, got 'x'; correct it ...
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise MetaLensError(f"Column {column.name} holds dates; give numbers, such as days since a start.")
    found = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = (np.isnan(found) & column.notna().to_numpy()) | (np.abs(found) > MAX_NUMBER)
    if wrong.any():
        row = int(wrong.argmax())
        value, cell = found[row], str(column.iloc[row])
        large = "a finite number" if np.isinf(value) else f"a number from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
        what = "a number" if np.isnan(value) else large
        remedy = "write numbers with a point" if "," in cell else "correct it or leave the row out"
        raise MetaLensError(
            f"Row {column.index[row] + 1} of column {column.name} must be {what}, got {cell!r}; {remedy}."
        )
    return found


def refuse_missing(column: pd.Series, remedy: str) -> None:
    """Raise a `MetaLensError` if a column has an empty cell."""
    empty = column.isna().to_numpy()
    if empty.any():
        row, n = column.index[int(empty.argmax())] + 1, int(empty.sum())
        raise MetaLensError(f"Row {row} of column {column.name} is empty, the first of {n}; {remedy}.")


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
            f"Row {column.index[row] + 1} of column {column.name} is {column.iloc[row]}, more than "
            f"{MAX_DEVIATIONS:g} standard deviations from the mean of the training tasks; correct it or "
            "leave the row out."
        )
    return x


def class_numbers(column: pd.Series, classes: Sequence[Any]) -> np.ndarray:
    """Return the class number of each cell of a column, `(n,)` int64.

    Args:
        column: words, numbers or booleans, none missing.
        classes: of the same type, or words.

    Raises:
        MetaLensError: a cell names another class.

    >>> import pandas as pd
    >>> class_numbers(pd.Series(["no", "yes"]), ["no", "yes"])
    array([0, 1])
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    words = column.astype(str) if isinstance(classes[0], str) else column
    found = pd.Index(classes).get_indexer(pd.Index(words))
    if (stray := found < 0).any():
        row = int(stray.argmax())
        raise MetaLensError(
            f"Row {column.index[row] + 1} of column {column.name} must be one of the classes "
            f"{', '.join(map(str, classes))}, got {str(column.iloc[row])!r}; correct it or leave it out."
        )
    return found.astype(np.int64)
