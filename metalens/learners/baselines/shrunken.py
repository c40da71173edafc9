"""A global mean, and the shrunken mean residual of each task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metalens.learners.baselines.fitted import TrainingRows
from metalens.learners.baselines.partial_pooling import NOISE_FLOOR, as_array
from metalens.learners.baselines.pooled_mean import Mean, PooledMean
from metalens.learners.baselines.reml import MixedModelMoments


class Shrunken(PooledMean):
    """Partial pooling at its simplest: one model of all tasks, and a level of each that is drawn to 0.

    With the mean m of all tasks, the variances `t^2` of the level of a task and `s^2` within tasks, and s
    support examples `(x_j, y_j)`:

        f(x) = m(x) + w (1/s) sum_j (y_j - m(x_j)), w = s t^2 / (s t^2 + s^2)

    It is `PartialPooling` with `k(x, x') = t^2`. Both variances have the maximum restricted likelihood of a
    random intercept in the residuals of the training tasks, each by a mean fitted to other tasks: five parts
    of whole tasks, each predicted by a model of the others.

    Args:
        n_outputs: number of targets.
        mean: m: `"boosting"`, the trees of `Boosting`; `"lightgbm"` or `"catboost"`, trees of that library;
            or `"linear"`, a ridge regression on the inputs, whose strength has the least squared error on
            held-out training tasks.
        n_tasks: number of training tasks to draw; all examples of those of one name are used.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import Objective, Shrunken, Sinusoid, fit
    >>> shrunken = Shrunken(n_outputs=1, mean="linear", n_tasks=50)
    >>> _ = fit(Objective(shrunken), Sinusoid(), steps=1, meta_batch_size=1)
    >>> task = Sinusoid("test")[0]
    >>> shrunken(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: A. Gelman, J. Hill, "Data Analysis Using Regression and Multilevel/Hierarchical Models", 2006,
    chapter 12. Deviation: any mean in place of a linear one, and variances of its residuals.
    """

    levels: Tensor

    def __init__(self, n_outputs: int, *, mean: Mean = "boosting", n_tasks: int = 1000) -> None:
        super().__init__(n_outputs, mean=mean, n_tasks=n_tasks)
        self.register_buffer("levels", torch.zeros(0))  # t^2, (c,)

    def fit_residuals(self, rows: TrainingRows, residuals: np.ndarray) -> None:
        ones = np.ones((len(rows.y), 1))
        of_all = [
            MixedModelMoments.of(ones, ones, of_target, rows.tasks).fit(correlated=False)
            for of_target in (residuals - residuals.mean(0)).T
        ]
        self.levels = self.noise.new_tensor([found.covariance.item() for found in of_all])
        floors = NOISE_FLOOR * rows.y.var(0)
        self.noise = self.noise.new_tensor(np.maximum([found.noise for found in of_all], floors))

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.broadcast_to(as_array(self.levels)[:, None, None], (self.n_outputs, len(a), len(b)))

    def prior_variance(self, x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(as_array(self.levels)[:, None], (self.n_outputs, len(x)))
