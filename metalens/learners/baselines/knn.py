"""Nearest neighbors on raw inputs, task by task."""

from typing import Literal, get_args

import numpy as np

from metalens.errors import MetaLensError
from metalens.learners.baselines.base import Baseline

Metric = Literal["euclidean", "cosine"]


class KNN(Baseline):
    """The classical local baseline: the mean of the k nearest support examples of each task alone.

    Predictions are the mean target of the k neighbors of an input or, for classes, the logarithm of their
    shares among these (at least 1e-6). By default, every task takes the k of 1, 2, 3, 5, 8 with the least
    squared error, or number of wrong classes, when each support example in turn is left out; the smaller one
    of equals. So with one example per class, k is 1.

    Args:
        n_outputs: number of targets, or of classes of a task.
        n_neighbors: k, at most the number of support examples; `None` to choose it for every task.
        metric: `"euclidean"` or `"cosine"` distance of raw inputs; the latter suits fingerprints.

    Raises:
        MetaLensError: k is below 1, or the metric has another name.

    >>> from metalens import KNN, Sinusoid
    >>> task = Sinusoid("test")[0]
    >>> bool((KNN(n_outputs=1, n_neighbors=1)(task.support)(task.support.x) == task.support.y).all())
    True

    Source: T. Cover, P. Hart, "Nearest Neighbor Pattern Classification", IEEE Transactions on Information
    Theory 13, 1967; scikit-learn computes it.
    """

    candidates = (1, 2, 3, 5, 8)

    def __init__(
        self, n_outputs: int, *, n_neighbors: int | None = None, metric: Metric = "euclidean"
    ) -> None:
        super().__init__(n_outputs)
        if n_neighbors is not None and n_neighbors < 1:
            raise MetaLensError(f"KNN: n_neighbors must be at least 1, or None, got {n_neighbors}.")
        if metric not in get_args(Metric):
            raise MetaLensError(f"KNN: metric must be euclidean or cosine, got {metric!r}.")
        self.n_neighbors = n_neighbors
        self.metric: Metric = metric

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

        k = min(self.n_neighbors or self.chosen(x, y, classes=classes), len(x))
        if not classes:
            return KNeighborsRegressor(k, metric=self.metric).fit(x, y).predict(new_x)
        model = KNeighborsClassifier(k, metric=self.metric).fit(x, y)
        return self.log_probabilities(model.predict_proba(new_x), model.classes_)

    def chosen(self, x: np.ndarray, y: np.ndarray, *, classes: bool) -> int:
        """Return the k that predicts the examples best when each in turn is left out."""
        from sklearn.neighbors import NearestNeighbors

        candidates = [k for k in self.candidates if k < len(x)]
        if not candidates:
            return 1
        nearest = NearestNeighbors(n_neighbors=candidates[-1], metric=self.metric).fit(x)
        neighbors = nearest.kneighbors(return_distance=False)  # without new inputs: of all others
        targets = np.eye(self.n_outputs)[y] if classes else y

        def error(k: int) -> float:
            predictions = targets[neighbors[:, :k]].mean(1)
            wrong = predictions.argmax(1) != y if classes else (predictions - targets) ** 2
            return float(wrong.mean())

        return min(candidates, key=error)
