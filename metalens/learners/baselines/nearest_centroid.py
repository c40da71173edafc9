"""The nearest class mean on raw inputs, task by task."""

import numpy as np

from metalens.learners.baselines.base import Baseline


class NearestCentroid(Baseline):
    """The simplest baseline on images: the nearest mean of a class on the raw inputs of each task alone.

    The logits are logarithms of probabilities (at least 1e-6) that are proportional to
    `exp(-||x - c_j||^2 / v)`, with the mean c_j of the support examples of class j, and the mean v of the
    squared distances of all support examples to their mean. ProtoNet does the same on learned features.

    Args:
        n_outputs: number of classes of a task.

    Raises:
        MetaLensError: targets are no classes.

    >>> import torch
    >>> from metalens import Examples, NearestCentroid
    >>> model = NearestCentroid(n_outputs=2)(Examples(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])))
    >>> model(torch.tensor([[0.4], [0.6]])).argmax(1)
    tensor([0, 1])

    Source: T. Hastie, R. Tibshirani, J. Friedman, "The Elements of Statistical Learning", 2009, section 4.3,
    with equal variances.
    """

    only_classes = True

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        present = np.unique(y)
        means = np.stack([x[y == label].mean(0) for label in present])
        distances = ((new_x[:, np.newaxis] - means) ** 2).sum(-1)
        spread = ((x - x.mean(0)) ** 2).sum(-1).mean()
        nearness = distances.min(1, keepdims=True) - distances
        likeness = np.exp(nearness / spread if spread > 0 else nearness)
        return self.log_probabilities(likeness / likeness.sum(1, keepdims=True), present)
