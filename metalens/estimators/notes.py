"""Notes on what the columns of a table look like, where a setting may be meant."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metalens.data import TableTasks
from metalens.data.base import Split
from metalens.data.support_query import equal_rows
from metalens.data.tables.cells import content, distinct
from metalens.data.tables.columns import Columns
from metalens.data.tables.places import rows_once

if TYPE_CHECKING:
    import pandas as pd

_TIME = re.compile(r"(?i)(^|[_. ])(year|month|week|day|hour|minute|date|time|visit|wave|session)s?$")
_IDENTIFIER = re.compile(
    r"(?i)(^|[_. ])(id|ids|uuid|key|index|row|rownames?|student|pupil|patient|person|subject|participant)$"
)
_MIN_NAMES = 10  # different cells of a column with the name of an identifier
_MANY_REPEATS = 0.1  # of the molecules of held-out tasks
_MIN_STEPS, _MOSTLY = 20, 0.95  # of a column that increases within tasks


def note_identifiers(columns: Columns, frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Warn of inputs that look like identifiers of rows, if the user has not named them as inputs.

    An identifier has another value in every row: a word, or whole numbers that count the rows; or it has the
    name of one, such as `student`, and many different words or whole numbers.

    Args:
        columns: their roles.
        frame: from `read`.
        names: of the inputs.

    Returns:
        The columns.

    >>> import pandas as pd, warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     table = pd.DataFrame({"shop": 1, "sales": 2.5, "No.": range(1, 21), "size": 0.5})
    ...     note_identifiers(Columns(task="shop", target="sales"), table, ["No.", "size"])
    ['No.']
    >>> str(caught[0].message)
    "Column No. looks like an identifier of rows, which says nothing about new ones; give exclude=['No.'] ..."
    """
    found = [name for name in names if columns.inputs is None and name not in columns.categorical]
    rows = rows_once(frame)
    found = [name for name in found if _is_identifier(rows[name])]
    if columns.wide is True:
        _note_tasks(frame[columns.target].groupby(frame[columns.task], sort=False))
    if found:
        one = f"Column {found[0]} looks like an identifier of rows, which says nothing about new ones"
        more = f"Columns {', '.join(found)} look like identifiers of rows, which say nothing about new ones"
        text = one if len(found) == 1 else more
        them = "it" if len(found) == 1 else "them"
        remedy = f"give exclude={found!r} to leave {them} out of the inputs"
        warnings.warn(f"{text}; {remedy}.", stacklevel=5)
    return found


def _note_tasks(cells_of: Iterable[tuple[Any, pd.Series]]) -> None:
    """Warn of columns of a wide table that look like identifiers of its rows, and are taken for tasks."""
    if found := [str(name) for name, cells in cells_of if _is_identifier(cells.rename(str(name)))]:
        warnings.warn(
            f"Column {found[0]} looks like an identifier of rows, and is read as a task of the wide table; "
            f"give exclude={found!r} to leave it out.",
            stacklevel=6,
        )


def note_time(columns: Columns, frame: pd.DataFrame, identifiers: Sequence[str] = ()) -> None:
    """Warn if a column looks like a time, and support rows are drawn at random all the same.

    It has the name of a time, or it is not excluded and its numbers increase from row to row in nearly every
    task.

    >>> import pandas as pd, warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     table = pd.DataFrame({"shop": [1], "sales": 2, "Year": 3})
    ...     note_time(Columns(task="shop", target="sales"), table)
    >>> str(caught[0].message)
    "Column Year looks like a time, and support rows are drawn at random; give order='Year' if ..."
    """
    if columns.order is not None:
        return
    roles = (columns.task, columns.target, columns.group, *identifiers)
    others = [name for name in frame if name not in roles]
    found = [
        name
        for name in others
        if _TIME.search(str(name))
        or (name not in columns.exclude and _increases(frame[name], frame[columns.task]))
    ]
    if found:
        warnings.warn(
            f"Column {found[0]} looks like a time, and support rows are drawn at random; give "
            f"order={found[0]!r} if of a new task the first rows are known and later ones asked for.",
            stacklevel=5,
        )


def _is_identifier(column: pd.Series) -> bool:
    cells = column.dropna()
    is_named = bool(_IDENTIFIER.search(str(column.name)))
    if content(cells) == "words":
        n = len(distinct(cells))
        return n >= _MIN_NAMES and (is_named or n == len(cells))
    if cells.dtype.kind not in "iuf":  # others are refused where used
        return False
    values = np.unique(cells.to_numpy(np.float64))
    if len(values) < _MIN_NAMES or not np.isfinite(values).all() or (values % 1 != 0).any():
        return False
    counts_rows = len(values) == len(cells) and values[-1] - values[0] == len(cells) - 1
    return is_named or bool(counts_rows)


def _increases(column: pd.Series, tasks: pd.Series) -> bool:
    """Return whether numbers increase within tasks, and not throughout the table as row numbers do."""
    if column.dtype.kind not in "iuf" or column.is_monotonic_increasing:  # others are refused where used
        return False
    steps = column.groupby(tasks).diff().dropna()
    return len(steps) > _MIN_STEPS and bool((steps > 0).mean() > _MOSTLY)


def note_repeats(tasks: Mapping[Split, TableTasks], columns: Columns) -> None:
    """Warn if many rows of held-out tasks have a molecule of a training task."""
    parts = [
        examples.x.numpy()
        for of_split in tasks.values()
        for examples in of_split.examples_by_task(len(of_split.task_names)).values()
    ]
    n_trained = sum(map(len, parts[: len(tasks["train"].task_names)]))
    codes = equal_rows(np.concatenate(parts))
    share = float(np.isin(np.unique(codes[n_trained:]), codes[:n_trained]).mean())
    if share > _MANY_REPEATS:
        families = "; give families, a column, if tasks of one study belong together"
        warnings.warn(
            f"{share:.0%} of the molecules of held-out tasks in column {columns.smiles} are also in training "
            f"tasks, and scores are better than for new molecules{'' if columns.wide else families}.",
            stacklevel=5,
        )
