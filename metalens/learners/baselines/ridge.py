"""Ridge regression on raw inputs, task by task."""

import numpy as np

from metalens.learners.baselines.base import Baseline

STRENGTHS = tuple(10.0**power for power in range(-3, 4))


class Ridge(Baseline):
    """The classical linear baseline: ridge regression on the raw inputs of each task alone.

    `min_W ||Y - X W - b||^2 + a ||W||^2`, with the strength `a` of 0.001, 0.01, ..., 1000 that has the least
    squared error when each support example in turn is left out; the intercept b is not penalized. For
    classes, Y has a column of ones and zeros for each, and the predictions are logits. A single support
    example is predicted for all.

    Args:
        n_outputs: number of targets, or of classes of a task.

    >>> from metalens import Ridge, Sinusoid
    >>> task = Sinusoid("test")[0]
    >>> Ridge(n_outputs=1)(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: A. Hoerl, R. Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 12, 1970; `RidgeCV` of scikit-learn computes it.
    """

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        from sklearn.linear_model import RidgeCV

        targets = np.eye(self.n_outputs)[y] if classes else y
        if len(x) == 1:  # which cannot be left out
            return np.repeat(targets, len(new_x), axis=0)
        model = RidgeCV(alphas=STRENGTHS).fit(x, targets)
        return model.predict(new_x).reshape(len(new_x), -1)
