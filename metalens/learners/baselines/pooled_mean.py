"""The base of partial pooling around a mean that is chosen by name."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from metalens.errors import check_choice
from metalens.learners.baselines.boosted_trees import BoostedTrees
from metalens.learners.baselines.fitted import TrainingRows
from metalens.learners.baselines.global_mean import GlobalMean
from metalens.learners.baselines.linear_mean import LinearMean
from metalens.learners.baselines.partial_pooling import PartialPooling

Mean = Literal["boosting", "linear", "lightgbm", "catboost"]

_MEANS: dict[Mean, Callable[[], GlobalMean]] = {
    "boosting": BoostedTrees,
    "linear": LinearMean,
    "lightgbm": partial(BoostedTrees, library="lightgbm"),
    "catboost": partial(BoostedTrees, library="catboost"),
}


class PooledMean(PartialPooling):
    """Partial pooling around a model of all tasks; a subclass defines `fit_residuals` in place of `fit_rows`.

    Args:
        n_outputs: number of targets.
        mean: m: `"boosting"`, the trees of `Boosting`; `"lightgbm"` or `"catboost"`, trees of that library;
            or `"linear"`, a ridge regression on the inputs, whose strength has the least squared error on
            held-out training tasks.
        n_tasks: see `FittedBaseline`.

    Raises:
        MetaLensError: a setting is out of range.
    """

    def __init__(self, n_outputs: int, *, mean: Mean = "boosting", n_tasks: int = 1000) -> None:
        super().__init__(n_outputs, n_tasks=n_tasks)
        check_choice(self, "mean", mean, Mean)
        self.global_mean = _MEANS[mean]()

    @abstractmethod
    def fit_residuals(self, rows: TrainingRows, residuals: np.ndarray) -> None:
        """Fit to residuals `(n, c)` of the training tasks, each by a mean fitted to other tasks."""

    def fit_rows(self, rows: TrainingRows) -> None:
        self.fit_residuals(rows, rows.y - self.global_mean.fit(rows))

    def mean(self, x: np.ndarray) -> np.ndarray:
        return self.global_mean.predict(x)
