"""Ridge regression on the examples of all tasks."""

import numpy as np
import torch
from torch import Tensor

from metalens.learners.baselines.fitted import TrainingRows, resize_when_loaded
from metalens.learners.baselines.global_mean import N_PARTS, GlobalMean
from metalens.learners.baselines.partial_pooling import as_array

_RIDGES = 10.0 ** np.arange(-3, 7)


class LinearMean(GlobalMean):
    """Ridge regression on the inputs, whose strength has the least squared error on held-out tasks.

    `min_W ||Y - X W - b||^2 + a ||W||^2`; the strength a is one of 0.001, 0.01, ..., 1,000,000.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((40, 2))
    >>> mean = LinearMean().double()
    >>> _ = mean.fit(TrainingRows(x, x[:, :1] + 3, np.repeat(np.arange(10), 4)))
    >>> mean.predict(np.zeros((1, 2))).round(3)
    array([[3.]])
    """

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(0, 0))  # (d + 1, c), the intercept last
        resize_when_loaded(self)

    def fit(self, rows: TrainingRows) -> np.ndarray:
        x, y, parts = rows.x.astype(float), rows.y, rows.parts(N_PARTS)
        predictions = np.empty((len(_RIDGES), *y.shape))
        for part in np.unique(parts):
            inside, outside = parts == part, parts != part
            weights = _ridge(x[outside], y[outside], _RIDGES)
            predictions[:, inside] = x[inside] @ weights[:, :-1] + weights[:, -1:]
        best = ((predictions - y) ** 2).mean((1, 2)).argmin()
        self.weights = self.weights.new_tensor(_ridge(x, y, _RIDGES[[best]])[0])
        return predictions[best]

    def predict(self, x: np.ndarray) -> np.ndarray:
        weights = as_array(self.weights)
        return x @ weights[:-1] + weights[-1]


def _ridge(x: np.ndarray, y: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Return the weights for each strength, `(strengths, d + 1, c)`, the intercept last."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    values, vectors = np.linalg.eigh((x - x_mean).T @ (x - x_mean))
    along = vectors.T @ ((x - x_mean).T @ (y - y_mean))
    weights = vectors @ (along / (values.clip(min=0)[:, None] + strengths[:, None, None]))
    return np.concatenate([weights, (y_mean - x_mean @ weights)[:, None]], axis=1)
