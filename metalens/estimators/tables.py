"""Your own tables: from columns to tasks, and from new rows to inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from metalens.data import TableTasks
from metalens.data.tables.cells import numbers
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.data.tables.encoding import CategoryColumn, NumberColumn, TableInputs
from metalens.data.tables.reading import check_columns, naming_file, refuse_missing, standardized
from metalens.data.tables.targets import classes_of, note_classes
from metalens.errors import MetaLensError
from metalens.estimators.notes import note_identifiers, note_time
from metalens.io.json import is_of

if TYPE_CHECKING:
    import pandas as pd

    from metalens.data.tables.columns import Table

_NAME, _NUMBER = (str, NoneType), (int, float)
_LAYOUT = {  # of a reader as JSON
    "columns": {
        "task": _NAME, "smiles": _NAME, "chirality": bool, "count": bool, "group": _NAME, "target": str,
        "wide": bool, "missing": str, "duplicates": _NAME, "inputs": ([str], NoneType), "categorical": [str],
        "exclude": [str], "order": _NAME, "sep": _NAME, "encoding": _NAME, "decimal": str,
        "thousands": _NAME,
    },
    "encoding": {
        "columns": [({"name": str, "categories": [str]},
                     {"name": str, "mean": _NUMBER, "deviation": _NUMBER, "marks_missing": bool})],
        "smiles": _NAME, "n_bits": int, "chirality": bool, "count": bool, "missing": str,
    },
    "mean": _NUMBER, "deviation": _NUMBER, "classes": [(str, int, float)],
}  # fmt: skip
_MIN_SHOT, _MAX_SHOT = 1, 16  # support rows by default
_QUERY_PER_SHOT = 3  # query rows in training for each support row, where tasks have them
_SMALL_SHARE = 0.1  # of tasks that may be too small for the default sizes


@dataclass(frozen=True)
class TableReader:
    """Encoding of the rows of a table as examples, fitted to the training tasks.

    Attributes:
        columns: the roles of the columns.
        encoding: of the inputs.
        mean: of real targets.
        deviation: of real targets.
        classes: shared by all tasks, in the order of the outputs; empty if there are none.
    """

    kind: ClassVar[str] = "table"

    columns: Columns
    encoding: TableInputs
    mean: float = 0.0
    deviation: float = 1.0
    classes: tuple[str | int | float | bool, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The columns that new rows must have."""
        smiles = () if self.encoding.smiles is None else (self.encoding.smiles,)
        return *(column.name for column in self.encoding.columns), *smiles

    def read(self, table: Table) -> pd.DataFrame:
        """Return new examples with the types of the columns in training; see `Columns.read`."""
        return self.columns.read(table, text=self._words)

    def rows(self, table: Table) -> pd.DataFrame:
        """Return new rows with the types of the columns in training; see `Columns.rows`."""
        return self.columns.rows(table, text=self._words)

    @property
    def _words(self) -> list[str]:
        return [column.name for column in self.encoding.columns if isinstance(column, CategoryColumn)]

    def inputs(self, table: Table | np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Return the inputs of the rows that can be used, `(m, d)`, and which of all these are, `(n,)` bool.

        Args:
            table: rows, or an array of the columns in their order.
        """
        if isinstance(table, np.ndarray):
            names = self.input_names
            if table.ndim != 2 or table.shape[1] != len(names):
                raise MetaLensError(
                    f"An array of rows must have the {len(names)} columns {', '.join(names)}, got the shape "
                    f"{table.shape}."
                )
            table = dict(zip(names, table.T, strict=True))
        with naming_file(table):
            frame = self.rows(table)
            check_columns(frame, self.input_names)
            usable = np.ones(len(frame), dtype=bool)
            if self.columns.missing == "drop":
                cells = self.columns.unusable(frame, self.input_names)
                usable = ~cells.any(axis=1).to_numpy()
                if not usable.all():
                    self.columns.warn_of_unusable(cells, "predicted as missing")
            return self._encoded(frame.iloc[usable]), usable

    def support(self, table: Table) -> tuple[Tensor, pd.Series, str | None]:
        """Return the inputs of the rows of one task, the column with their targets, and the task's name.

        Raises:
            MetaLensError: a column is missing, a target is empty, or the rows name several tasks.
        """
        with naming_file(table):
            frame, task = self.read(table), self.columns.task
            if task is not None and task in frame and (found := frame[task].nunique()) > 1:
                raise MetaLensError(
                    f"The support has values of {found} tasks in columns of their own; give one of them."
                    if self.columns.wide
                    else f"The support has rows of {found} tasks by its column {task}; give those of one."
                )
            names = [] if task is None or task not in frame else frame[task].dropna().unique()
            return *self.support_rows(frame), str(names[0]) if len(names) else None

    def support_rows(self, frame: pd.DataFrame) -> tuple[Tensor, pd.Series]:
        """Return the inputs of rows from `read` that can be used, of any tasks, and their targets."""
        frame = self._usable(frame)
        return self._encoded(frame), frame[self.columns.target]

    def _usable(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with targets that can be used."""
        target = self.columns.target
        check_columns(frame, [target, *self.input_names])
        return frame.iloc[self.columns.kept_rows(frame, [target, *self.input_names])]

    def _encoded(self, frame: pd.DataFrame) -> Tensor:
        self.encoding.warn_of_unknown(frame)
        return torch.from_numpy(self.encoding.transform(frame))

    def standardized(self, target: pd.Series) -> np.ndarray:
        """Return standardized real targets, `(n, 1)`."""
        y = standardized(numbers(target), target, self.mean, self.deviation)
        return y.astype(np.float32)[:, None]

    def in_units(self, values: Tensor) -> Tensor:
        """Return standardized targets in their own units."""
        return values * self.deviation + self.mean

    def tasks(self, table: Table, k_shot: int, n_query: int | None, seed: int) -> TableTasks:
        """Return all tasks of a new table, with inputs and targets as the model takes them."""
        with naming_file(table):
            return self._tasks(self.read(table), k_shot, n_query, seed)

    def episode_rows(self, table: Table) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the rows of a new table that can be used, and their inputs."""
        with naming_file(table):
            frame = self._usable(self.read(table))
            return frame, self._encoded(frame).numpy()

    def _tasks(self, frame: pd.DataFrame, k_shot: int, n_query: int | None, seed: int) -> TableTasks:
        columns = self.columns
        assert columns.task is not None  # otherwise there are episodes
        check_columns(frame, [columns.task])
        for name in (columns.task, columns.group):
            if name is not None and name in frame:
                refuse_missing(frame[name], "fill it, or leave the row out")
        frame = self._usable(frame)
        array = self._encoded(frame).numpy()
        if not self.classes:
            frame = frame.assign(**{columns.target: self.standardized(frame[columns.target]).ravel()})
        given = replace(columns, inputs=array, categorical=(), exclude=(), smiles=None, missing="refuse")
        return TableTasks(
            frame,
            "test",
            **vars(given),
            kind="classification" if self.classes else "regression",
            classes=self.classes or None,
            splits=(0.0, 0.0, 1.0),
            k_shot=k_shot,
            n_query=n_query,
            standardize="none",
            seed=seed,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the reader with the values of `asdict`."""
        if not is_of(values, _LAYOUT):
            raise ValueError("its reader of tables is not as expected")
        encoding = dict(values["encoding"])
        fitted = tuple(
            CategoryColumn(column["name"], tuple(column["categories"]))
            if "categories" in column
            else NumberColumn(**column)
            for column in encoding.pop("columns")
        )
        columns, classes = Columns(**values["columns"]), tuple(values["classes"])
        return cls(columns, TableInputs(fitted, **encoding), values["mean"], values["deviation"], classes)


def fit_reader(
    columns: Columns,
    frame: pd.DataFrame,
    division: Division,
    *,
    k_shot: int | None,
    n_query: int | None,
    seed: int,
    classes: bool,
) -> tuple[TableReader, TableTasks]:
    """Return the reader fitted to the training tasks of a table, and these tasks.

    Targets are numbers, or `classes` that all tasks share; see `TableTasks` and `row_sizes` for the settings.
    """
    check_columns(frame, [columns.task, columns.target])
    names = columns.input_columns(frame, division.task_columns)
    note_time(columns, frame, note_identifiers(columns, frame, names or []))
    kept = columns.kept_rows(frame, [columns.target, *(names or [])], quiet=True)
    k_shot, n_query = row_sizes(frame[columns.task].iloc[kept], k_shot, n_query)
    target = frame[columns.target].iloc[kept]
    known = tuple(classes_of(target)) if classes else ()
    if not classes:
        note_classes(target)
    train = TableTasks(
        frame,
        **vars(columns),
        kind="classification" if classes else "regression",
        classes=known or None,
        **vars(division),
        k_shot=k_shot,
        n_query=n_query,
        seed=seed,
    )
    if train.encoding is None:
        raise MetaLensError("inputs must name columns, got an array; make it columns of the table.")
    later = columns.of_new_tables(frame, names or [])
    return TableReader(later, train.encoding, train.target_mean, train.target_deviation, known), train


def row_sizes(tasks: pd.Series, k_shot: int | None, n_query: int | None) -> tuple[int, int]:
    """Return the numbers of support and query rows of a training task.

    By default nine in ten tasks are large enough: half of their rows, at most 16, are support rows, and of
    the rest at most three times as many query rows. `tasks` is the column that names the task of a row.
    """
    rows = int(tasks.value_counts().quantile(_SMALL_SHARE))
    support = k_shot or min(max(rows // 2, _MIN_SHOT), _MAX_SHOT)
    return support, n_query or min(max(rows - support, 1), _QUERY_PER_SHOT * support)
