"""Wide tables, with a column for each task: made long once, where they are read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from metalens.data.tables.cells import content, numbers
from metalens.data.tables.places import TASK, VALUE, index_of
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_N_NAMED = 5  # columns in a message


def long_form(frame: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return a row for each known cell of the columns of tasks, with all other columns.

    The column `task` names the column of the cell, and `value` is the cell. A warning counts the empty cells,
    which are left out.

    Args:
        frame: with plain columns, see `read_table`.
        tasks: names of the columns.

    Raises:
        MetaLensError: a cell is no number among numbers, columns hold values of different kinds, all cells
            are empty, or another column is named `task` or `value`.

    >>> import pandas as pd, warnings
    >>> wide = pd.DataFrame({"dose": [1, 2], "a": [0.5, None], "b": [3, 4]})
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     long_form(wide, ["a", "b"]).values.tolist()
    [[1, 'a', 0.5], [1, 'b', 3.0], [2, 'b', 4.0]]
    >>> str(caught[0].message)
    '1 of the 4 cells of the 2 columns of tasks are empty and left out.'
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    others = frame.drop(columns=list(tasks))
    if taken := [name for name in (TASK, VALUE) if name in others]:
        raise MetaLensError(
            f"The table has a column {taken[0]}, as the long form of a wide table gets one; rename it, or "
            "leave out wide if rows name their task."
        )
    columns = _of_one_kind(frame, tasks)
    known = np.stack([column.notna().to_numpy() for column in columns], axis=1)
    if not known.any():
        raise MetaLensError(
            f"The table has only empty cells in its columns of tasks, {_named(tasks)}; fill some."
        )
    _note_empty(known, tasks)
    rows, places = np.nonzero(known)
    names = np.array(tasks, dtype=object)[places]
    values = pd.concat(columns, axis=1).to_numpy()[rows, places]
    index = index_of(rows, names)
    cells = pd.Series(values, index=index).infer_objects()
    return others.iloc[rows].set_axis(index).assign(**{TASK: names, VALUE: cells})


def _of_one_kind(frame: pd.DataFrame, tasks: Sequence[str]) -> list[pd.Series]:
    """Return the columns of tasks, all of them numbers, truth values or words."""
    import pandas as pd  # takes as long to import as all of MetaLens

    kinds: dict[str, str] = {}  # the first column of each
    columns = []
    for name in tasks:
        column = frame[name]
        kind = content(column)
        if kind in ("dates", "spans"):
            raise MetaLensError(
                f"Column {name} holds dates or time spans, and those of tasks hold numbers or words; give it "
                "a role, or name it in exclude."
            )
        if column.notna().any():
            kinds.setdefault(kind, name)
        columns.append(pd.Series(numbers(column), name=name) if kind == "numbers" else column.astype(object))
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise MetaLensError(
            f"Column {first} holds {one} and column {second} {other}, but all tasks of a wide table have "
            "values of one kind; name those columns in wide that are tasks, or others in exclude."
        )
    return columns


def _note_empty(known: np.ndarray, tasks: Sequence[str]) -> None:
    if known.all():
        return
    never = [name for name, cells in zip(tasks, known.T, strict=True) if not cells.any()]
    whole = f", among them all of {_named(never)}" if never else ""
    of = f"column {tasks[0]}" if len(tasks) == 1 else f"the {len(tasks)} columns of tasks"
    warnings.warn(
        f"{known.size - known.sum():,} of the {known.size:,} cells of {of} are empty and left out{whole}.",
        stacklevel=5,
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more
