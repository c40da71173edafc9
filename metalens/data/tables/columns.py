"""The columns of a table and their roles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

import numpy as np
from torch import Tensor

from metalens.data.checks import check_choices
from metalens.data.tables.cells import content
from metalens.data.tables.characters import check_encoding
from metalens.data.tables.molecules import are_molecules
from metalens.data.tables.places import TASK, VALUE, is_long_form, row_number
from metalens.data.tables.reading import check_columns, frame_of_arrays, read_table, refuse_missing
from metalens.data.tables.wide import long_form
from metalens.data.times import clock_of
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

    Table = pd.DataFrame | str | os.PathLike[str] | Mapping[str, Any]

FILL = "fill it, or set missing to 'mean' or 'drop'"  # remedies for an empty cell, of inputs
LEAVE_OUT = "leave the row out, or set missing='drop'"  # and of targets
Missing = Literal["refuse", "mean", "drop"]
Duplicates = Literal["together", "refuse", "allow"]


class ColumnOptions(TypedDict, total=False):
    """The optional settings of `Columns` as keywords."""

    wide: bool | Sequence[str]
    inputs: Sequence[str] | np.ndarray | Tensor | None
    categorical: Sequence[str]
    exclude: Sequence[str]
    smiles: str | None
    chirality: bool
    count: bool
    missing: Missing
    group: str | None
    duplicates: Duplicates | None
    order: str | None
    sep: str | None
    encoding: str | None
    decimal: str
    thousands: str | None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The roles of the columns of a table.

    Args:
        task: column that names the task of a row; `None` if a task is any few classes.
        target: column to predict: numbers, or words for classes.
        wide: of a table with a column for each task: the columns of tasks, whose cells are the targets, or
            `True` for all columns without another role. Empty cells are left out. Then `task` and `target`
            are not given; the long form names them `task` and `value`.
        inputs: columns to predict from: numbers, which are standardized, or words, which become an input for
            each category; `None` for all columns without another role, or with `smiles` for none.
            `TableTasks` also takes ready-made inputs, `(rows, *input_shape)`, and uses them unchanged.
        categorical: inputs whose numbers are categories.
        exclude: columns that are no inputs, such as identifiers of rows, where `inputs` names none.
        smiles: column with molecules, whose Morgan fingerprints are inputs (needs the extra `chem`).
        chirality: fingerprints tell stereoisomers apart.
        count: fingerprints count the parts of a molecule, see `morgan_fingerprints`.
        missing: empty cells: `"refuse"` them; `"mean"`: impute the mean of the training tasks and add an
            indicator input (for words: no category); `"drop"`: leave out the row, with a warning that counts
            such rows, as for an empty target and for a molecule that RDKit cannot read. A model predicts
            rows to leave out as missing.
        group: column, such as the patient or the scaffold; the rows of a task with one value are never
            divided between support and query.
        duplicates: rows of a task with equal inputs: `"together"` on one side like a group, `"refuse"` them,
            or `"allow"` them on both sides. `None`: together, unless fewer than half of the tasks could be
            divided then, as with a few categories; a note says so. Molecules are always together.
        order: column with a time or a sequence, such as the year, by which the support rows of a task are its
            earliest and its queries later ones; `None` to draw both at random. Numbers are an input too.
        sep: between the columns of a text file; `None` for comma, tab, semicolon or bar, as its lines show.
        encoding: of a text file without a byte-order mark, such as `"cp1252"`, `"shift-jis"` or `"gb18030"`;
            `None` for UTF-8.
        decimal: point of numbers that are written as text, such as `","`.
        thousands: mark between thousands of such numbers, if there is one.

    Raises:
        MetaLensError: a setting is out of range.

    >>> Columns(task="school", target="exam", missing="zero")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: missing must be one of refuse, mean, drop, got 'zero'.
    """

    task: str | None = None
    target: str = ""
    wide: bool | Sequence[str] = False
    inputs: Sequence[str] | np.ndarray | Tensor | None = None
    categorical: Sequence[str] = ()
    exclude: Sequence[str] = ()
    smiles: str | None = None
    chirality: bool = False
    count: bool = False
    missing: Missing = "refuse"
    group: str | None = None
    duplicates: Duplicates | None = None
    order: str | None = None
    sep: str | None = None
    encoding: str | None = None
    decimal: str = "."
    thousands: str | None = None

    def __post_init__(self) -> None:
        for name in ("wide", "inputs", "categorical", "exclude"):
            if isinstance(value := getattr(self, name), str):
                raise MetaLensError(f"{name} must be a list of columns, got the text {value!r}.")
        self._name_roles()
        check_names(
            task=self.task, target=self.target, group=self.group, smiles=self.smiles, order=self.order
        )
        check_choices(missing=(self.missing, Missing))
        if self.duplicates is not None:
            check_choices(duplicates=(self.duplicates, Duplicates))
        if len(self.exclude) and self.inputs is not None and self.wide is not True:
            raise MetaLensError("exclude is for tables whose inputs are not named; give inputs or exclude.")
        check_form(self.sep, self.encoding, self.decimal, self.thousands)

    def _name_roles(self) -> None:
        """Name the task and the target of a wide table, and refuse a table without."""
        if not isinstance(self.wide, bool):
            object.__setattr__(self, "wide", tuple(self.wide))  # of an index of pandas, too
        if not self.wide:
            if self.target == "":
                raise MetaLensError(
                    "target must name the column to predict, or wide those of tasks; got none."
                )
            return
        if (self.task, self.target) not in ((None, ""), (TASK, VALUE)):
            raise MetaLensError(
                "wide says that tasks are columns and their cells the targets; leave out task and target, or "
                "leave out wide if a column names the task of a row."
            )
        if self.wide is True and self.inputs is None and self.smiles is None:
            raise MetaLensError(
                "wide=True takes all columns without another role for tasks; name inputs or smiles, or the "
                "columns of tasks in wide."
            )
        object.__setattr__(self, "task", TASK)
        object.__setattr__(self, "target", VALUE)

    def ranks(self, frame: pd.DataFrame) -> np.ndarray | None:
        """Return the time or place in the sequence of every row, `(n,)`; `None` without `order`.

        Raises:
            MetaLensError: a cell of the column is empty, or no number or time.
        """
        if self.order is None:
            return None
        refuse_missing(frame[self.order], "fill it, or leave the row out")
        times = clock_of(frame[self.order])
        if np.isnan(times).any():
            row = int(np.isnan(times).argmax())
            raise MetaLensError(
                f"Column {self.order} must hold numbers or times to be the order, but row "
                f"{row_number(frame.index, row)} holds {frame[self.order].iloc[row]!r}; correct it."
            )
        return times

    @property
    def times(self) -> list[str]:
        """The column with the order of rows, if there is one."""
        return [] if self.order is None else [self.order]

    @property
    def molecules(self) -> list[str]:
        """The column with molecules, if there is one."""
        return [] if self.smiles is None else [self.smiles]

    def read(self, table: Table, *, text: Sequence[str] = ()) -> pd.DataFrame:
        """Return a table with a row for each example, a wide one in its long form; see `rows`."""
        frame = self.rows(table, text=text)
        return (
            long_form(frame, self._wide_tasks(frame, text))
            if self.wide and not is_long_form(frame)
            else frame
        )

    def rows(self, table: Table, *, text: Sequence[str] = ()) -> pd.DataFrame:
        """Return a table as it is, with its rows numbered from 0; see `read_table`.

        Columns with a role that are names are read as text, also those that `text` names. The long form of a
        wide table has been read.
        """
        import pandas as pd  # takes as long to import as all of MetaLens

        if isinstance(table, pd.DataFrame) and is_long_form(table):
            return table
        if isinstance(table, Mapping):
            table = frame_of_arrays(table)
        if not isinstance(table, pd.DataFrame | str | os.PathLike):
            wanted = "a data frame, the path of a file, or arrays by name"
            raise MetaLensError(f"A table must be {wanted}, got {type(table).__name__}.")
        names = [name for name in (self.task, self.group, self.smiles, *self.categorical, *text) if name]
        inputs = [] if self.inputs is None or isinstance(self.inputs, np.ndarray | Tensor) else self.inputs
        return read_table(
            table, text=names, levels=[*names, self.target, *inputs, *self.times], sep=self.sep,
            encoding=self.encoding, decimal=self.decimal, thousands=self.thousands,
        )  # fmt: skip

    def _wide_tasks(self, frame: pd.DataFrame, others: Sequence[str]) -> list[str]:
        """Return the columns of tasks of a wide table; `others` have further roles."""
        if isinstance(self.inputs, np.ndarray | Tensor):
            raise MetaLensError(
                "Ready-made inputs are for long tables; name columns of the wide one in inputs."
            )
        roles = [
            *(self.inputs or ()),
            *self.categorical,
            *self.exclude,
            *self.molecules,
            *self.times,
            *others,
        ]
        roles += [] if self.group is None else [self.group]
        if self.wide is True:
            tasks = [name for name in frame.columns if name not in roles]
            if not tasks:
                raise MetaLensError(f"The table has no column of a task beside {', '.join(roles)}; add one.")
            return tasks
        tasks = list(dict.fromkeys(self.wide or ()))
        check_columns(frame, tasks)
        if stray := [name for name in tasks if name in roles]:
            raise MetaLensError(f"wide names {', '.join(stray)}, which has another role; leave it out.")
        return tasks

    def of_new_tables(self, frame: pd.DataFrame, inputs: Sequence[str]) -> Self:
        """Return how tables of new tasks are read, given the table of training from `read` and its inputs.

        In a wide one, all columns are tasks that the table of training did not have for another purpose.
        """
        if not self.wide:
            return self
        used = (*inputs, *self.molecules, *self.times, self.group, TASK, VALUE)
        others = tuple(name for name in frame.columns if name not in used)
        return replace(self, wide=True, inputs=tuple(inputs) or None, exclude=others)

    def refuse_for_wide(self, names: Sequence[str]) -> None:
        """Refuse columns that say something of the task of a row if a row of a wide table has many."""
        if self.wide and names:
            raise MetaLensError(
                f"Column {names[0]} is to say something of tasks, and a row of a wide table is of all tasks; "
                "leave it out, or make the table long by pandas.melt."
            )

    def input_columns(self, frame: pd.DataFrame, others: Sequence[str] = ()) -> list[str] | None:
        """Return the columns of numbers and words that are inputs; `None` for ready-made inputs.

        Args:
            frame: from `read`.
            others: columns with further roles, which are inputs only if `inputs` names them.
        """
        roles = [name for name in (self.task, self.target, self.group, *others) if name is not None]
        check_columns(frame, [*roles, *self.molecules, *self.times, *self.exclude])
        if stray := [name for name in self.exclude if name in (*roles, *self.molecules, *self.categorical)]:
            raise MetaLensError(f"exclude names {', '.join(stray)}, which has another role; leave it out.")
        if [*roles, *self.molecules].count(self.target) > 1:
            column = f"Column {self.target}"
            raise MetaLensError(f"{column} is the target and has another role too; name two columns.")
        if isinstance(self.inputs, np.ndarray | Tensor):
            if self.smiles is not None:
                raise MetaLensError("Give ready-made inputs or smiles, got both; add fingerprints to inputs.")
            return None
        if self.inputs is None:
            others = (*roles, *self.exclude)
            names = [] if self.smiles is not None else [name for name in frame.columns if name not in others]
            if self.order in names and content(frame[self.order]) != "numbers":
                names.remove(str(self.order))
            if self.smiles is None and not names:
                raise MetaLensError(
                    f"The table has no columns for inputs beside {', '.join(others)}; add some."
                )
            return names
        if known := [name for name in self.inputs if name in (self.task, self.target)]:
            raise MetaLensError(f"inputs must not name the task or the target, got {', '.join(known)}.")
        if not self.inputs and self.smiles is None:
            raise MetaLensError("inputs must name at least one column, or smiles one; got none.")
        check_columns(frame, self.inputs)
        return list(self.inputs)

    def unusable(self, frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Return which cells of these columns and of molecules are empty or unreadable, `(n, columns)`."""
        cells = frame[list(dict.fromkeys([*names, *self.molecules]))].isna()
        for name in self.molecules:
            cells[name] = ~are_molecules(frame[name])
        return cells

    def kept_rows(self, frame: pd.DataFrame, names: Sequence[str], *, quiet: bool = False) -> np.ndarray:
        """Return the rows to keep: with `missing="drop"` those that can be used, else all.

        Args:
            frame: from `read`.
            names: columns whose cells must be known, as far as `missing` does not fill them.
            quiet: whether not to warn, as another call does.

        Raises:
            MetaLensError: a cell is empty and may not be, or no row is left.
        """
        if self.missing != "drop":
            for name in [*names, *self.molecules]:
                if self.missing == "refuse" or name in (self.target, *self.molecules):
                    refuse_missing(frame[name], LEAVE_OUT if name == self.target else FILL)
            return np.arange(len(frame))
        cells = self.unusable(frame, names)
        unusable = cells.any(axis=1).to_numpy()
        if unusable.all():
            raise MetaLensError("All rows have an empty cell, and missing='drop' leaves none; try 'mean'.")
        if unusable.any() and not quiet:
            self.warn_of_unusable(cells, "left out")
        return np.flatnonzero(~unusable)

    def warn_of_unusable(self, cells: pd.DataFrame, outcome: str) -> None:
        """Warn of rows that cannot be used; `cells` are those of `unusable`."""
        counts = ", ".join(f"{name} {n}" for name, n in cells.sum().items() if n)
        what = "an empty cell or no readable molecule" if self.molecules else "an empty cell"
        n = int(cells.any(axis=1).sum())
        warnings.warn(f"{n} of the {len(cells)} rows have {what} ({counts}) and are {outcome}.", stacklevel=5)


def check_names(**names: object) -> None:
    """Raise a `MetaLensError` if a setting that names one column is no text.

    >>> check_names(task=["hospital", "patient"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: task must be the name of one column, got a list of 2; join the columns ...
    """
    for setting, name in names.items():
        if name is None or isinstance(name, str):
            continue
        if isinstance(name, Sequence | np.ndarray):
            join = "table['a'].astype(str) + ' ' + table['b'].astype(str)"
            remedy = (
                "predict one at a time, or name them in wide if each is a task"
                if setting == "target"
                else f"join the columns to one: {join}"
            )
            found = f"a {type(name).__name__} of {len(name)}; {remedy}"
        else:
            found = f"the {type(name).__name__} {name!r}; name columns by text"
        raise MetaLensError(f"{setting} must be the name of one column, got {found}.")


def check_form(sep: str | None, encoding: str | None, decimal: str, thousands: str | None) -> None:
    """Refuse an unknown form of text files; see `Columns`."""
    if not (sep is None or (isinstance(sep, str) and sep)):
        raise MetaLensError(f"sep must be the text between columns, such as ';', got {sep!r}.")
    check_encoding(encoding)
    if decimal not in (".", ",") or thousands in (decimal, ""):
        raise MetaLensError(
            f"decimal must be '.' or ',', and thousands another mark, got {decimal!r} and {thousands!r}."
        )
