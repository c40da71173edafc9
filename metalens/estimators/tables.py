"""Tables of users: from columns to tasks, and from new rows to inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from metalens.data import TableTasks
from metalens.data.base import Split
from metalens.data.tables.columns import Columns
from metalens.data.tables.encoding import CategoryColumn, NumberColumn, TableInputs
from metalens.data.tables.reading import check_columns, is_text, numbers, refuse_missing, standardized
from metalens.errors import MetaLensError
from metalens.io.json import is_of

if TYPE_CHECKING:
    import pandas as pd

    from metalens.data.tables.columns import Table

_NAME, _NUMBER = (str, NoneType), (int, float)
_LAYOUT = {  # of a reader as JSON
    "columns": {
        **dict.fromkeys(("task", "smiles", "group"), _NAME),
        **dict.fromkeys(("target", "missing", "duplicates"), str),
        "inputs": ([str], NoneType),
        "categorical": [str],
    },
    "encoding": {
        "columns": [
            (
                {"name": str, "categories": [str]},
                {"name": str, "mean": _NUMBER, "deviation": _NUMBER, "marks_missing": bool},
            )
        ],
        "smiles": _NAME, "n_bits": int, "missing": str,
    },
    "mean": _NUMBER, "deviation": _NUMBER, "classes": [(str, int, float)],
}  # fmt: skip
_MIN_SHOT, _MAX_SHOT = 1, 16  # support rows by default
_QUERY_PER_SHOT = 3  # query rows in training for each support row, where tasks have them
_SMALL_SHARE = 0.1  # of tasks that may be too small for the default sizes


@dataclass(frozen=True)
class TableReader:
    """How the rows of a table become examples, as fitted to the rows of the training tasks.

    Attributes:
        columns: what each column is.
        encoding: of the inputs.
        mean: of real targets.
        deviation: of real targets.
        classes: that all tasks share, in the order of the outputs; empty where there are none.
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
        names = [column.name for column in self.encoding.columns]
        return (*names, self.encoding.smiles) if self.encoding.smiles is not None else tuple(names)

    def inputs(self, table: Table | np.ndarray) -> Tensor:
        """Return the inputs of rows, `(n, d)`, which may come as an array of the columns in their order."""
        if isinstance(table, np.ndarray):
            table = self._named(table)
        return torch.from_numpy(self.encoding.transform(self.columns.read(table)))

    def support(self, table: Table) -> tuple[Tensor, pd.Series]:
        """Return the inputs of the rows of one task, and the column with their targets.

        Raises:
            MetaLensError: a column is missing, a target is empty, or the rows name several tasks.
        """
        frame = self.columns.read(table)
        check_columns(frame, [self.columns.target])
        if (
            self.columns.task is not None
            and self.columns.task in frame.columns
            and (found := frame[self.columns.task].nunique()) > 1
        ):
            raise MetaLensError(
                f"The support has rows of {found} tasks by its column {self.columns.task}; give those of one."
            )
        target = frame[self.columns.target]
        refuse_missing(target, "leave the row out")
        return torch.from_numpy(self.encoding.transform(frame)), target

    def _named(self, array: np.ndarray) -> dict[str, np.ndarray]:
        if array.ndim != 2 or array.shape[1] != len(self.input_names):
            raise MetaLensError(
                f"An array of rows must have the {len(self.input_names)} columns "
                f"{', '.join(self.input_names)}, got the shape {array.shape}."
            )
        return dict(zip(self.input_names, array.T, strict=True))

    def standardized(self, target: pd.Series) -> np.ndarray:
        """Return real targets as the model has them, `(n, 1)`."""
        y = standardized(numbers(target), target, self.mean, self.deviation)
        return y.astype(np.float32)[:, None]

    def in_units(self, values: Tensor) -> Tensor:
        """Return standardized targets in their own units."""
        return values * self.deviation + self.mean

    def tasks(self, table: Table, k_shot: int, n_query: int | None, seed: int) -> TableTasks:
        """Return new tasks, all that the table has, with inputs and targets as the model takes them."""
        frame, columns = self.columns.read(table), self.columns
        assert columns.task is not None  # else there are episodes
        check_columns(frame, [columns.task, columns.target])
        refuse_missing(frame[columns.target], "leave the row out")
        array = self.encoding.transform(frame)
        if not self.classes:
            frame = frame.assign(**{columns.target: self.standardized(frame[columns.target]).ravel()})
        given = replace(columns, inputs=array, categorical=(), smiles=None, missing="refuse")
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

    def as_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` understands."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `as_json` wrote."""
        if not is_of(values, _LAYOUT):
            raise ValueError("its reader of tables is not as expected")
        encoding = dict(values["encoding"])
        fitted = [
            CategoryColumn(column["name"], tuple(column["categories"]))
            if "categories" in column
            else NumberColumn(**column)
            for column in encoding.pop("columns")
        ]
        return cls(
            Columns(**values["columns"]),
            TableInputs(tuple(fitted), **encoding),
            values["mean"],
            values["deviation"],
            tuple(values["classes"]),
        )


def fit_reader(
    columns: Columns,
    frame: pd.DataFrame,
    splits: str | Sequence[float],
    *,
    k_shot: int | None,
    n_query: int | None,
    seed: int,
    classes: bool,
) -> tuple[TableReader, dict[Split, TableTasks]]:
    """Return the reader that training tasks make, and the tasks of each split.

    Args:
        columns: the roles of the columns.
        frame: from `columns.read`.
        splits: see `TableTasks`.
        k_shot: support rows of a task, see `row_sizes`.
        n_query: query rows of a task.
        seed: of the rows that are drawn.
        classes: whether the targets are classes, which all tasks share.
    """
    check_columns(frame, [columns.task, columns.target])
    k_shot, n_query = row_sizes(frame[columns.task], k_shot, n_query)
    known = tuple(classes_of(frame[columns.target]).tolist()) if classes else ()
    train = TableTasks(
        frame,
        **vars(columns),
        kind="classification" if classes else "regression",
        classes=known or None,
        splits=splits,
        k_shot=k_shot,
        n_query=n_query,
        seed=seed,
    )
    if train.encoding is None:
        raise MetaLensError("inputs must name columns, got an array; make it columns of the table.")
    reader = TableReader(columns, train.encoding, train.target_mean, train.target_deviation, known)
    return reader, {"train": train, "val": train.in_split("val"), "test": train.in_split("test")}


def row_sizes(tasks: pd.Series, k_shot: int | None, n_query: int | None) -> tuple[int, int]:
    """Return how many support and query rows a training task has.

    By default both are as large as nine in ten tasks allow: half of the rows, and at most 16, for support; of
    what is left, at most three times as many for queries.

    Args:
        tasks: the column that names the task of a row.
        k_shot: support rows, if they are given.
        n_query: query rows, if they are given.
    """
    rows = int(tasks.value_counts().quantile(_SMALL_SHARE))
    support = k_shot or min(max(rows // 2, _MIN_SHOT), _MAX_SHOT)
    return support, n_query or min(max(rows - support, 1), _QUERY_PER_SHOT * support)


def classes_of(target: pd.Series) -> np.ndarray:
    """Return the classes that a column names, sorted: words, numbers or truth values as they are.

    >>> import pandas as pd
    >>> classes_of(pd.Series(["no", "yes", "no"])).tolist(), classes_of(pd.Series([3, 1])).tolist()
    (['no', 'yes'], [1, 3])
    """
    refuse_missing(target, "leave the row out")
    return np.unique(target.astype(str) if is_text(target) else target.to_numpy())
