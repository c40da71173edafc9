"""A classifier adapted to one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalens.data.tables.reading import class_numbers
from metalens.estimators.adapted import AdaptedModel
from metalens.estimators.choice import Draw
from metalens.estimators.classifier import MetaClassifier
from metalens.estimators.images import ImageReader
from metalens.estimators.models import most_probable


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedClassifier(AdaptedModel):
    """A model of one task, adapted to its support.

    Attributes:
        classes_: the classes, in the order of the columns of `predict_proba`.
    """

    estimator_class = MetaClassifier

    classes_: np.ndarray

    def predict(self, data: Any) -> np.ndarray:
        """Return the most probable class of every row or image, `(n,)`; `None` where `missing` drops it.

        Args:
            data: rows with the columns of the inputs; or a folder or zip file of images, in the order of
                their paths, or a list of image files.

        Raises:
            MetaLensError: the data cannot be used.
        """
        return most_probable(self.classes_, self.predict_proba(data))

    def predict_proba(self, data: Any) -> np.ndarray:
        """Return the probabilities of `classes_`, `(n, classes)`; nan where `predict` is `None`."""
        reader = self.estimator.reader_
        if isinstance(reader, ImageReader):
            return self._models(reader.inputs(data), classes=True).numpy()
        x, usable = reader.inputs(data)
        chances = np.full((len(usable), len(self.classes_)), np.nan)
        if usable.any():
            chances[usable] = self._models(x, classes=True).numpy()
        return chances

    def _draw(self, x: Tensor, targets: pd.Series) -> Draw:
        y, known = (torch.from_numpy(self._numbered(labels)) for labels in (targets, self._targets))
        indicators = torch.nn.functional.one_hot(y, len(self.classes_)).double()
        return Draw("", y, known, {}, indicators)

    def _classes(self) -> list[Any]:
        return self.classes_.tolist()

    def _numbered(self, labels: pd.Series) -> np.ndarray:
        return class_numbers(labels, self._classes())

    def _as_tensor(self) -> Tensor:
        return torch.from_numpy(self._numbered(self._targets))

    @staticmethod
    def _from_tensor(y: Tensor, classes: list[Any]) -> pd.Series:
        return pd.Series([classes[number] for number in y.tolist()], dtype=None if len(y) else object)
