"""Divide the tasks of a table into splits, and their rows into support and query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metalens.data.named_tasks import split_tasks
from metalens.data.splits import divided, property_of_tasks, splits_of_column
from metalens.data.support_query import equal_rows, linked_rows, pairs, rows_by_task
from metalens.data.tables.cells import content, plain
from metalens.data.tables.columns import Columns, check_names
from metalens.data.tables.molecules import molecule_keys
from metalens.data.tables.places import row_number, where
from metalens.data.tables.reading import refuse_missing
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_DISJOINT_SHARES = (0.5, 0.25, 0.25)  # of values, in training, validation and testing


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the tasks and rows of a table are divided; see `TableTasks` for each setting."""

    splits: str | Sequence[float] | Mapping[str, str]
    split_seed: int | None = None
    stratify: str | None = None
    families: str | None = None
    disjoint: str | None = None
    roles: str | None = None

    def __post_init__(self) -> None:
        check_names(stratify=self.stratify, disjoint=self.disjoint, roles=self.roles)

    @property
    def task_columns(self) -> list[str]:
        """Columns that are constant within a task."""
        return [name for name in (self.splits, self.stratify, self.families) if isinstance(name, str)]

    @property
    def row_columns(self) -> list[str]:
        """Columns of names that differ within a task."""
        return [name for name in (self.roles, self.disjoint) if name is not None]

    def divide(
        self, frame: pd.DataFrame, codes: np.ndarray, names: Sequence[str], smiles: str | None = None
    ) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
        """Return the rows and the split of every task; row i belongs to task `names[codes[i]]`."""
        rows_of = rows_by_task(codes, names)
        if isinstance(self.splits, str):
            split_of: Mapping[str, str] = splits_of_column(frame[self.splits], rows_of)
        elif isinstance(self.splits, Mapping):
            split_of = split_tasks(names, self.splits)
        else:
            split_of = self._by_shares(frame, rows_of, self.splits)
        if self.disjoint is None:
            return rows_of, split_of
        if self.disjoint == smiles:
            values = molecule_keys(frame[self.disjoint]).tolist()
        else:
            values = frame[self.disjoint].astype(str).tolist()
        split_of_value = divided(set(values), _DISJOINT_SHARES, seed=self.split_seed)
        split_of_row = np.array([split_of_value[value] for value in values])
        return {name: rows[split_of_row[rows] == split_of[name]] for name, rows in rows_of.items()}, split_of

    def _by_shares(
        self, frame: pd.DataFrame, rows_of: Mapping[str, np.ndarray], shares: Sequence[float]
    ) -> Mapping[str, str]:
        settings: Any = {"seed": self.split_seed, "instead": "a column or "}
        if self.families is None:
            strata = self.stratify and property_of_tasks(frame[self.stratify], rows_of, "stratify")
            return divided(rows_of, shares, strata=strata or None, **settings)
        if self.stratify is not None:
            raise MetaLensError("families and stratify divide tasks in two ways; give one of them.")
        family_of = property_of_tasks(frame[self.families], rows_of, "families")
        split_of = divided(set(family_of.values()), shares, **settings)
        return {name: split_of[family] for name, family in family_of.items()}

    def for_support(self, frame: pd.DataFrame) -> np.ndarray | None:
        """Return which rows are support rows by their role, `(rows,)` bool; the others are query rows."""
        if self.roles is None:
            return None
        words = frame[self.roles].astype(str).to_numpy()
        stray = np.flatnonzero(~np.isin(words, ["support", "query"]))
        if len(stray):
            raise MetaLensError(
                f"{where(frame[self.roles], int(stray[0]))} must say support or query, got "
                f"{words[stray[0]]!r}; correct it."
            )
        return words == "support"


def units_of_rows(
    frame: pd.DataFrame,
    columns: Columns,
    codes: np.ndarray,
    inputs: np.ndarray,
    for_support: np.ndarray | None,
) -> np.ndarray | None:
    """Return the unit of every row, whose rows are never on both sides; `None` if rows are independent.

    Rows of a group, duplicates, and salts and isomers of a molecule in one task form a unit; `codes` are the
    tasks of the rows, `(rows,)`.
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    keys = [] if columns.group is None else [pairs(codes, pd.factorize(frame[columns.group])[0])]
    if columns.duplicates != "allow":
        equal = pairs(codes, equal_rows(inputs))
        keys.append(equal)
        if columns.smiles is not None:
            keys.append(pairs(codes, pd.factorize(molecule_keys(frame[columns.smiles]))[0]))
        if columns.duplicates == "refuse":
            _refuse_duplicates(frame, equal, columns.task)
    units = linked_rows(keys)
    if for_support is not None and units is not None:
        _refuse_split(frame, units, for_support, columns.task)
    return units


def _refuse_duplicates(frame: pd.DataFrame, same: np.ndarray, task: str | None) -> None:
    order = np.argsort(same, kind="stable")
    again = np.flatnonzero(np.diff(same[order]) == 0)
    if len(again):
        one, other = int(order[again[0]]), int(order[again[0] + 1])
        numbers = f"{row_number(frame.index, one)} and {row_number(frame.index, other)}"
        raise MetaLensError(
            f"Rows {numbers} of task {frame[task].iloc[one]} have "
            f"the same inputs, the first of {len(again)} such pairs; leave one out, or set "
            "duplicates='together'."
        )


def _refuse_split(frame: pd.DataFrame, units: np.ndarray, for_support: np.ndarray, task: str | None) -> None:
    sides = (np.bincount(units[side], minlength=int(units.max()) + 1) for side in (for_support, ~for_support))
    both = np.logical_and(*(counts > 0 for counts in sides))
    if both.any():
        rows = np.flatnonzero(units == both.argmax())
        numbers = ", ".join(str(row_number(frame.index, row)) for row in rows[:5])
        raise MetaLensError(
            f"Rows {numbers} of task {frame[task].iloc[rows[0]]} belong together, by their group or as "
            "duplicates, and are both support and query; correct roles, or set duplicates='allow'."
        )


def descriptors_of_tasks(
    column: pd.Series, rows_of: Mapping[str, np.ndarray], train: Sequence[str]
) -> np.ndarray:
    """Return a property of all tasks as numbers, `(tasks, p)`, standardized by the training tasks."""
    refuse_missing(column, "fill it, or leave the row out")
    of_task = property_of_tasks(column, rows_of, "descriptors")
    if content(plain(column)) == "words":
        words = sorted(set(of_task.values()))
        return np.array([[of_task[name] == word for word in words] for name in rows_of], dtype=float)
    values = {name: float(value) for name, value in of_task.items()}
    known = np.array([values[name] for name in train or rows_of])
    return ((np.array(list(values.values())) - known.mean()) / (known.std() or 1.0))[:, None]
