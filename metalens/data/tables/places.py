"""Where a cell is, in words: rows are counted from 1, below the header, and in wide tables as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

TASK, VALUE = "task", "value"  # columns of the long form of a wide table
_INDEX = ["row of the wide table", "column of the wide table"]  # names of its index


def index_of(rows: np.ndarray, columns: np.ndarray) -> pd.MultiIndex:
    """Return the index of the long form: the row and the column of each cell in the wide table."""
    import pandas as pd  # takes as long to import as all of MetaLens

    return pd.MultiIndex.from_arrays([rows, columns], names=_INDEX)


def is_long_form(frame: pd.DataFrame) -> bool:
    """Return whether a table is the long form of a wide one."""
    return list(frame.index.names) == _INDEX


def rows_once(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the repetitions of a row in the long form of a wide one."""
    return frame[~frame.index.get_level_values(0).duplicated()] if is_long_form(frame) else frame


def row_number(index: pd.Index, place: int) -> int:
    """Return the number of a row, from 1."""
    label = index[place]
    return (label[0] if isinstance(label, tuple) else label) + 1


def where(column: pd.Series, place: int) -> str:
    """Return the row and the column of a cell.

    >>> import pandas as pd
    >>> where(pd.Series([1, 2], name="dose"), 1)
    'Row 2 of column dose'
    >>> where(pd.Series([0.5], index=index_of(np.array([6]), np.array(["assay 3"])), name="value"), 0)
    'Row 7 of column assay 3'
    """
    label = column.index[place]
    name = label[1] if isinstance(label, tuple) and column.name == VALUE else column.name
    return f"Row {row_number(column.index, place)} of column {name}"
