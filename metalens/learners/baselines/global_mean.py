"""Models of all tasks that ignore which task an example is of: means for partial pooling."""

from abc import abstractmethod

import numpy as np
from torch import nn

from metalens.learners.baselines.fitted import TrainingRows

N_PARTS = 5  # of the training tasks; each part is predicted by a model of the others


class GlobalMean(nn.Module):
    """A function of the inputs that is fitted to the examples of all training tasks."""

    @abstractmethod
    def fit(self, rows: TrainingRows) -> np.ndarray:
        """Fit to examples; return what models of other tasks alone predict for each, `(n, c)`."""

    @abstractmethod
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions `(n, c)` for inputs `(n, d)`."""


def is_binary(x: np.ndarray) -> bool:
    """Return whether all inputs are 0 or 1, as those of fingerprints.

    >>> is_binary(np.array([[0.0, 1.0]])), is_binary(np.array([[0.0, 2.0]]))
    (True, False)
    """
    return bool(((x == 0) | (x == 1)).all())
