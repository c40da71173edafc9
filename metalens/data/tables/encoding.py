"""Encode the columns of a table as inputs: numbers, categories and molecules."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from metalens.data.tables.cells import Vocabulary, content, distinct, names, numbers, plain
from metalens.data.tables.columns import FILL, Missing
from metalens.data.tables.molecules import Fingerprint, fingerprints_of_column
from metalens.data.tables.places import row_number
from metalens.data.tables.reading import (
    check_columns,
    note_markers,
    refuse_missing,
    scale_of,
    standardized,
)
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_MAX_CATEGORIES = 200  # of a column that is not in categorical: more are likely names or texts


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, standardized: `(x - mean) / deviation`, and 0 if missing."""

    name: str
    mean: float  # of the fitted rows
    deviation: float  # of the fitted rows; 1 for a constant
    marks_missing: bool  # whether an indicator input follows, as numbers are missing in fitted rows

    @classmethod
    def fit(cls, column: pd.Series) -> NumberColumn:
        known = numbers(column)
        missing = np.isnan(known)
        return cls(str(column.name), *scale_of(known[~missing]), bool(missing.any()))

    @property
    def input_names(self) -> list[str]:
        return [self.name, f"{self.name} is missing"] if self.marks_missing else [self.name]

    def transform(self, column: pd.Series) -> np.ndarray:
        x = standardized(numbers(column), column, self.mean, self.deviation)
        inputs = [np.nan_to_num(x), np.isnan(x)] if self.marks_missing else [np.nan_to_num(x)]
        return np.stack(inputs, axis=1).astype(np.float32)


@dataclass(frozen=True)
class CategoryColumn:
    """A column of words, one-hot; unknown and missing categories are all 0."""

    name: str
    categories: tuple[str, ...]  # in the order of their inputs

    @classmethod
    def fit(cls, column: pd.Series, *, named: bool) -> CategoryColumn:
        categories = distinct(column)
        note_markers(column)
        if len(categories) > _MAX_CATEGORIES and not named:
            raise MetaLensError(
                f"Column {column.name} holds {len(categories)} different words, too many for an input each; "
                "name it in exclude, or in categorical, or in smiles if these are molecules."
            )
        return cls(str(column.name), categories)

    @property
    def input_names(self) -> list[str]:
        return [f"{self.name}={category}" for category in self.categories]

    def transform(self, column: pd.Series) -> np.ndarray:
        codes = Vocabulary(self.categories).codes(column)
        return (codes[:, None] == np.arange(len(self.categories))).astype(np.float32)

    def warn_of_unknown(self, column: pd.Series) -> None:
        """Warn of cells with a category that no fitted row has."""
        words = names(column)
        unknown = (Vocabulary(self.categories).codes(column) < 0) & words.notna().to_numpy()
        if unknown.any():
            row, n = int(unknown.argmax()), int(unknown.sum())
            number = row_number(column.index, row)
            warnings.warn(
                f"{'All' if n == words.notna().sum() else n} of the {words.notna().sum()} cells of column "
                f"{self.name} hold categories that no training row has, the first in row "
                f"{number}: {words.iloc[row]!r}; they count as none of those known, such as "
                f"{self.categories[0] if self.categories else 'none'!r}.",
                stacklevel=4,
            )


@dataclass(frozen=True)
class TableInputs:
    """How the columns of a table become the inputs of a model, as fitted to the rows of training tasks.

    Attributes:
        columns: of numbers and words.
        smiles: the column with molecules, whose Morgan fingerprints are the last inputs, or `None`.
        n_bits: length of a fingerprint.
        chirality: of fingerprints, see `Columns`.
        count: of fingerprints, see `Columns`.
        missing: see `Columns`.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"dose": [1.0, 3.0], "dye": ["red", "blue"]})
    >>> inputs = TableInputs.fit(frame, ["dose", "dye"])
    >>> inputs.names
    ('dose', 'dye=blue', 'dye=red')
    >>> inputs.transform(pd.DataFrame({"dose": [5.0], "dye": ["green"]}))
    array([[3., 0., 0.]], dtype=float32)
    """

    columns: tuple[NumberColumn | CategoryColumn, ...]
    smiles: str | None = None
    n_bits: int = 1024
    chirality: bool = False
    count: bool = False
    missing: Missing = "refuse"

    @classmethod
    def fit(
        cls,
        frame: pd.DataFrame,
        names: Sequence[str],
        *,
        categorical: Sequence[str] = (),
        smiles: str | None = None,
        n_bits: int = 1024,
        chirality: bool = False,
        count: bool = False,
        missing: Missing = "refuse",
    ) -> TableInputs:
        """Return inputs with the statistics and categories of these rows.

        Args:
            frame: the rows of the training tasks.
            names: columns of numbers or words; further settings: see `Columns`.

        Raises:
            MetaLensError: a column is missing, or a cell has the wrong type.
        """
        check_columns(frame, [*names, *categorical, *([] if smiles is None else [smiles])])
        if stray := [name for name in categorical if name not in names]:
            raise MetaLensError(f"categorical names {', '.join(stray)}, which is not among the inputs.")
        columns: list[NumberColumn | CategoryColumn] = []
        for name in names:
            column = frame[name]
            if missing == "refuse":
                refuse_missing(column, FILL)
            if name in categorical or content(plain(column)) == "words":
                columns.append(CategoryColumn.fit(column, named=name in categorical))
            else:
                columns.append(NumberColumn.fit(column))
        return cls(tuple(columns), smiles, n_bits, chirality, count, missing)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        bits = [] if self.smiles is None else [f"{self.smiles} bit {bit}" for bit in range(self.n_bits)]
        return tuple([name for column in self.columns for name in column.input_names] + bits)

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the inputs of rows, `(n, len(names))`: float32, or uint8 of fingerprints alone.

        Raises:
            MetaLensError: a column is missing, or a cell has the wrong type.
        """
        used = [column.name for column in self.columns] + ([] if self.smiles is None else [self.smiles])
        check_columns(frame, used)
        for name in used:
            if self.missing != "mean" or name == self.smiles:
                refuse_missing(frame[name], FILL if self.missing == "refuse" else "leave the row out")
        parts = [column.transform(frame[column.name]) for column in self.columns]
        if self.smiles is not None:
            parts.append(self.fingerprints(frame))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def fingerprints(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the fingerprints of the molecules of rows, `(n, n_bits)` uint8."""
        kind = Fingerprint(self.n_bits, chirality=self.chirality, count=self.count)
        return fingerprints_of_column(frame[self.smiles], kind)

    def warn_of_unknown(self, frame: pd.DataFrame) -> None:
        """Warn of cells in columns of words with a category that no training row has."""
        for column in self.columns:
            if isinstance(column, CategoryColumn):
                column.warn_of_unknown(frame[column.name])


def ready_made(inputs: np.ndarray | Tensor, n_rows: int) -> np.ndarray:
    """Return ready-made inputs of the rows of a table as an array of finite numbers."""
    array = inputs.numpy(force=True) if isinstance(inputs, Tensor) else inputs
    if len(array) != n_rows:
        raise MetaLensError(f"inputs must have one entry for each of the {n_rows} rows, got {len(array)}.")
    if array.dtype.kind not in "iufb":
        raise MetaLensError(f"Ready-made inputs must be numbers, got an array of {array.dtype}.")
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        raise MetaLensError(
            f"Ready-made inputs must be finite, but row {int(finite.argmin()) + 1} is not; correct it or "
            "leave it out."
        )
    return array if array.flags.writeable else array.copy()  # PyTorch warns about others
