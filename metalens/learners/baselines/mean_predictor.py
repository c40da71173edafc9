"""The mean of the support, task by task."""

import numpy as np

from metalens.learners.baselines.base import Baseline


class MeanPredictor(Baseline):
    """The classical baseline that ignores inputs: the mean target of the support of each task alone.

    For classes, the logarithm of their shares in the support (at least 1e-6): the most frequent one is
    predicted. A method that does not beat it gains nothing from inputs.

    Args:
        n_outputs: number of targets, or of classes of a task.

    >>> import torch
    >>> from metalens import MeanPredictor, Sinusoid
    >>> task = Sinusoid("test")[0]
    >>> predictions = MeanPredictor(n_outputs=1)(task.support)(task.query.x)
    >>> torch.allclose(predictions, task.support.y.mean())
    True
    """

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        if not classes:
            return np.repeat(y.mean(0, keepdims=True), len(new_x), axis=0)
        found, counts = np.unique(y, return_counts=True)
        shares = np.repeat(counts[None] / len(y), len(new_x), axis=0)
        return self.log_probabilities(shares, found)
