"""Logistic regression on raw inputs, task by task."""

import numpy as np

from metalens.errors import MetaLensError
from metalens.learners.baselines.base import Baseline


class LogisticRegression(Baseline):
    """The classical linear classifier: logistic regression on the raw inputs of each task alone.

    `min_{W, b} C sum_i -log softmax(W x_i + b)_{y_i} + ||W||^2 / 2`; the logits are logarithms of the class
    probabilities (at least 1e-6). With examples of one class only, that class is predicted for all.
    LinearProbe does the same on learned features.

    Args:
        n_outputs: number of classes of a task.
        inverse_strength: C, the weight of the examples against the penalty.

    Raises:
        MetaLensError: C is not above 0, or targets are no classes.

    >>> import torch
    >>> from metalens import Examples, LogisticRegression
    >>> model = LogisticRegression(n_outputs=2)(Examples(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])))
    >>> model(torch.tensor([[0.4], [0.6]])).argmax(1)
    tensor([0, 1])

    Source: D. Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society B
    20, 1958; scikit-learn computes it.
    """

    only_classes = True

    def __init__(self, n_outputs: int, *, inverse_strength: float = 1.0) -> None:
        super().__init__(n_outputs)
        if not inverse_strength > 0:
            raise MetaLensError(
                f"LogisticRegression: inverse_strength must be above 0, got {inverse_strength}."
            )
        self.inverse_strength = inverse_strength

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        from sklearn import linear_model

        present = np.unique(y)
        if len(present) == 1:
            return self.log_probabilities(np.ones((len(new_x), 1)), present)
        model = linear_model.LogisticRegression(C=self.inverse_strength, max_iter=1000).fit(x, y)
        return self.log_probabilities(model.predict_proba(new_x), model.classes_)
