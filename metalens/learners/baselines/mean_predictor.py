"""The mean of the support, task by task."""

from __future__ import annotations

import numpy as np

from metalens.learners.baselines.per_task import PerTaskLearner


class MeanPredictor(PerTaskLearner):
    """The classical baseline that looks at no input: the mean target of the support of each task alone.

    For classes, the logarithm of their shares in the support (at least 1e-6): the most frequent one is
    predicted. What does not beat it has learned nothing from inputs.

    Nothing is learned across tasks; see `PerTaskLearner`.

    Args:
        network: gives the number of outputs, and nothing else.

    >>> from metalens import MeanPredictor, Sinusoid, mlp
    >>> task = Sinusoid("test")[0]
    >>> bool((MeanPredictor(mlp())(task.support)(task.query.x) == task.support.y.mean()).all())
    True
    """

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        if not classes:
            return np.repeat(y.mean(0, keepdims=True), len(new_x), axis=0)
        found, counts = np.unique(y, return_counts=True)
        shares = np.repeat(counts[None] / len(y), len(new_x), axis=0)
        return self.log_probabilities(shares, found)
