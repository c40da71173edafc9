"""The inputs of a table as the outside methods take them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metalens.data.tables.molecules import morgan_fingerprints
from tools.tables.protocol import Fold


class Design:
    """Encodings of inputs, fitted to the training tasks.

    Attributes:
        numbers: names of the columns of numbers.
        words: names of the columns of categories.
    """

    def __init__(self, fold: Fold) -> None:
        problem, train = fold.problem, fold.train
        names = problem.input_names(train)
        self._smiles = problem.smiles
        self.numbers = [n for n in names if is_numeric_dtype(train[n]) and n not in problem.categorical]
        self.words = [n for n in names if n not in self.numbers and n != self._smiles]
        self._known: dict[str, np.ndarray] = {}
        if self._smiles is None:
            numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
            words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
            parts = [("numbers", numbers, self.numbers), ("words", words, self.words)]
            self._encoder = ColumnTransformer(parts).fit(self._texts(train))
            self._categories = {n: sorted(self._texts(train)[n].unique()) for n in self.words}

    @property
    def molecules(self) -> bool:
        """Whether the inputs are fingerprints of molecules."""
        return self._smiles is not None

    def matrix(self, frame: pd.DataFrame) -> np.ndarray:
        """Return standardized numbers without gaps, then one column for each category; or fingerprints."""
        if self._smiles is not None:
            return self._bits(frame).astype(float)
        return np.asarray(self._encoder.transform(self._texts(frame)), dtype=float)

    def for_trees(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return numbers as they are and categories as such; or fingerprints."""
        if self._smiles is not None:
            bits = self._bits(frame)
            return pd.DataFrame(bits, columns=[f"bit{n}" for n in range(bits.shape[1])])
        found = self._texts(frame)[[*self.numbers, *self.words]].copy()
        for name, known in self._categories.items():
            found[name] = pd.Categorical(found[name].where(found[name].isin(known)), known)
        return found

    def _bits(self, frame: pd.DataFrame) -> np.ndarray:
        """Return fingerprints; those of a molecule are computed once."""
        molecules = frame[self._smiles].tolist()
        new = sorted(set(molecules) - self._known.keys())
        if new:
            self._known |= dict(zip(new, morgan_fingerprints(new), strict=True))
        return np.stack([self._known[molecule] for molecule in molecules])

    def _texts(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the columns of categories as text, empty cells too."""
        return frame.assign(**{n: frame[n].map(str) for n in self.words})


def most_related(matrix: np.ndarray, y: np.ndarray, groups: np.ndarray) -> int:
    """Return the column that is most correlated with the targets within tasks."""
    rows = pd.DataFrame(np.column_stack([matrix, y]))
    within = rows - rows.groupby(groups).transform("mean")
    x, target = within.iloc[:, :-1].to_numpy(), within.iloc[:, -1].to_numpy()
    spread = np.linalg.norm(x, axis=0) * np.linalg.norm(target)
    return int(np.argmax(np.abs(x.T @ target) / np.where(spread > 0, spread, np.inf)))
