"""Reading tables: files into data frames, and cells into numbers, with the place of every mistake."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_PARQUET = (".parquet", ".pq")


def read_table(table: pd.DataFrame | str | os.PathLike[str], *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Return a table with its rows numbered from 0.

    Args:
        table: a data frame, or the path of a Parquet file (`.parquet`, `.pq`) or of a CSV file, which may be
            compressed.
        text: columns of a CSV file that are names, even where they look like numbers, such as `007`.

    Raises:
        MetaLensError: the file cannot be read as a table, has no rows, or has two columns of one name.

    >>> import pandas as pd
    >>> read_table(pd.DataFrame({"a": [1, 2]}, index=[5, 6])).index.tolist()
    [0, 1]
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    frame = table if isinstance(table, pd.DataFrame) else _read_file(table, text)
    name = "The table" if isinstance(table, pd.DataFrame) else os.fspath(table)
    if len(frame) == 0:
        raise MetaLensError(f"{name} has no rows; give a table with at least one.")
    if twice := [str(column) for column in frame.columns[frame.columns.duplicated()]]:
        raise MetaLensError(f"{name} has several columns named {', '.join(twice)}; rename them.")
    return frame.reset_index(drop=True)


def _read_file(path: str | os.PathLike[str], text: Sequence[str]) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    name = os.fspath(path)
    try:
        if name.endswith(_PARQUET):
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=dict.fromkeys(text, str), low_memory=False)
    except ImportError as error:
        raise MetaLensError(
            f"To read {name}, Parquet needs pyarrow, which is not installed; install it by "
            "pip install 'metalens[parquet]', or give a CSV file."
        ) from error
    except FileNotFoundError as error:
        raise MetaLensError(f"There is no file {name}; correct the path.") from error
    except UnicodeDecodeError as error:
        raise MetaLensError(
            f"{name} is not in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    except pd.errors.EmptyDataError as error:
        raise MetaLensError(f"{name} is empty; give a CSV file with a header and rows.") from error
    except pd.errors.ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise MetaLensError(f"Cannot read {name} as a table ({reason}); correct that line.") from error
    except (OSError, ValueError, EOFError) as error:  # of what unpacks, all errors are among these
        raise MetaLensError(
            f"Cannot read {name} as a table ({type(error).__name__}); give a CSV or Parquet file."
        ) from error


def check_columns(frame: pd.DataFrame, names: Sequence[Any]) -> None:
    """Refuse names of columns that the table does not have.

    Raises:
        MetaLensError: with those that it has.
    """
    if missing := [str(name) for name in names if name not in frame.columns]:
        raise MetaLensError(
            f"The table has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}."
        )


def is_text(column: pd.Series) -> bool:
    """Tell whether a column holds words: no numbers by its type, and none in most of its cells.

    >>> import pandas as pd
    >>> is_text(pd.Series(["red", "2"])), is_text(pd.Series(["1", "2", "?"])), is_text(pd.Series([1, 2]))
    (True, False, False)
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    cells = column.dropna()
    return 2 * int(pd.to_numeric(cells, errors="coerce").notna().sum()) <= len(cells)


def numbers(column: pd.Series) -> np.ndarray:
    """Return a column as numbers, `(n,)`; missing ones are nan.

    Rows are counted from 1 in errors, below the header.

    Raises:
        MetaLensError: a cell is no number, or infinite; with its row and column.

    >>> import pandas as pd
    >>> numbers(pd.Series(["1", None, "x", "4"], name="dose"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Row 3 of column dose must be a number, got 'x'; correct it ...
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise MetaLensError(
            f"Column {column.name} holds dates; give numbers instead, such as days since a start."
        )
    found = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = (np.isnan(found) & column.notna().to_numpy()) | np.isinf(found)
    if wrong.any():
        row = int(wrong.argmax())
        what = "a finite number" if np.isinf(found[row]) else "a number"
        raise MetaLensError(
            f"Row {column.index[row] + 1} of column {column.name} must be {what}, got "
            f"{str(column.iloc[row])!r}; correct it or leave the row out."
        )
    return found


def refuse_missing(column: pd.Series, remedy: str) -> None:
    """Refuse a column with an empty cell.

    Raises:
        MetaLensError: with the row and the remedy.
    """
    empty = column.isna().to_numpy()
    if empty.any():
        row = column.index[int(empty.argmax())] + 1
        raise MetaLensError(
            f"Row {row} of column {column.name} is empty, the first of {int(empty.sum())}; {remedy}."
        )


def class_numbers(column: pd.Series, classes: Sequence[Any]) -> np.ndarray:
    """Return which of some classes the cells of a column name, `(n,)` int64.

    Args:
        column: of words, numbers or truth values, none missing.
        classes: of the same type; words stand for any.

    Raises:
        MetaLensError: a cell names another class; with its row and column.

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
