"""The columns of a table and their roles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from torch import Tensor

from metalens.data.checks import check_choices
from metalens.data.tables.reading import check_columns, frame_of_arrays, read_table
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

    Table = pd.DataFrame | str | os.PathLike[str] | Mapping[str, Any]

Missing = Literal["refuse", "mean", "drop"]
Duplicates = Literal["together", "refuse", "allow"]


class ColumnOptions(TypedDict, total=False):
    """The optional settings of `Columns` as keywords."""

    inputs: Sequence[str] | np.ndarray | Tensor | None
    categorical: Sequence[str]
    smiles: str | None
    missing: Missing
    group: str | None
    duplicates: Duplicates


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The roles of the columns of a table.

    Args:
        task: column that names the task of a row; `None` if a task is any few classes.
        target: column to predict: numbers, or words for classes.
        inputs: columns to predict from: numbers, which are standardized, or words, which become an input for
            each category; `None` for all columns without another role, or with `smiles` for none.
            `TableTasks` also takes ready-made inputs, `(rows, *input_shape)`, and uses them unchanged.
        categorical: inputs whose numbers are categories.
        smiles: column with molecules, whose Morgan fingerprints are inputs (needs the extra `chem`).
        missing: empty cells of inputs: `"refuse"` them; `"mean"`: impute the mean of the training tasks and
            add an indicator input (for words: no category); `"drop"`: leave out the row, as for an empty
            target, with a warning.
        group: column, such as the patient or the scaffold; the rows of a task with one value are never
            divided between support and query.
        duplicates: rows of a task with equal inputs: `"together"` on one side like a group, `"refuse"` them,
            or `"allow"` them on both sides.

    Raises:
        MetaLensError: a setting is out of range.

    >>> Columns(task="school", target="exam", missing="zero")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: missing must be one of refuse, mean, drop, got 'zero'.
    """

    task: str | None = None
    target: str
    inputs: Sequence[str] | np.ndarray | Tensor | None = None
    categorical: Sequence[str] = ()
    smiles: str | None = None
    missing: Missing = "refuse"
    group: str | None = None
    duplicates: Duplicates = "together"

    def __post_init__(self) -> None:
        for name in ("inputs", "categorical"):
            if isinstance(value := getattr(self, name), str):
                raise MetaLensError(f"{name} must be a list of columns, got the text {value!r}.")
        check_choices(missing=(self.missing, Missing), duplicates=(self.duplicates, Duplicates))

    @property
    def molecules(self) -> list[str]:
        """The column with molecules, if there is one."""
        return [] if self.smiles is None else [self.smiles]

    def read(self, table: Table, *, text: Sequence[str] = ()) -> pd.DataFrame:
        """Return a table with its rows numbered from 0; see `read_table`.

        Columns with a role that are names are read as text, also those that `text` names.
        """
        import pandas as pd  # takes as long to import as all of MetaLens

        if isinstance(table, Mapping):
            table = frame_of_arrays(table)
        if not isinstance(table, pd.DataFrame | str | os.PathLike):
            wanted = "a data frame, the path of a file, or arrays by name"
            raise MetaLensError(f"A table must be {wanted}, got {type(table).__name__}.")
        names = (self.task, self.group, self.smiles, *self.categorical, *text)
        return read_table(table, text=[name for name in names if name is not None])

    def input_columns(self, frame: pd.DataFrame, others: Sequence[str] = ()) -> list[str] | None:
        """Return the columns of numbers and words that are inputs; `None` for ready-made inputs.

        Args:
            frame: from `read`.
            others: columns with further roles, which are inputs only if `inputs` names them.
        """
        roles = [name for name in (self.task, self.target, self.group, *others) if name is not None]
        check_columns(frame, [*roles, *self.molecules])
        if [*roles, *self.molecules].count(self.target) > 1:
            column = f"Column {self.target}"
            raise MetaLensError(f"{column} is the target and has another role too; name two columns.")
        if isinstance(self.inputs, np.ndarray | Tensor):
            if self.smiles is not None:
                raise MetaLensError("Give ready-made inputs or smiles, got both; add fingerprints to inputs.")
            return None
        if self.inputs is None:
            names = [] if self.smiles is not None else [name for name in frame.columns if name not in roles]
            if self.smiles is None and not names:
                raise MetaLensError(
                    f"The table has no columns for inputs beside {', '.join(roles)}; add some."
                )
            return names
        if known := [name for name in self.inputs if name in (self.task, self.target)]:
            raise MetaLensError(f"inputs must not name the task or the target, got {', '.join(known)}.")
        if not self.inputs and self.smiles is None:
            raise MetaLensError("inputs must name at least one column, or smiles one; got none.")
        check_columns(frame, self.inputs)
        return list(self.inputs)

    def kept_rows(self, frame: pd.DataFrame, inputs: Sequence[str]) -> np.ndarray:
        """Return the rows to keep: with `missing="drop"` those without an empty cell, else all."""
        if self.missing != "drop":
            return np.arange(len(frame))
        empty = frame[[self.target, *inputs, *self.molecules]].isna()
        incomplete = empty.any(axis=1).to_numpy()
        if incomplete.all():
            raise MetaLensError("All rows have an empty cell, and missing='drop' leaves none; try 'mean'.")
        if incomplete.any():
            counts = ", ".join(f"{name} {n}" for name, n in empty.sum().items() if n)
            warnings.warn(
                f"{int(incomplete.sum())} of the {len(frame)} rows have an empty cell ({counts}) and are "
                "left out.",
                stacklevel=4,
            )
        return np.flatnonzero(~incomplete)
