"""A random forest on raw inputs, task by task."""

import numpy as np

from metalens.errors import MetaLensError
from metalens.learners.baselines.base import Baseline


class RandomForest(Baseline):
    """The classical strong baseline on tables: a random forest on the raw inputs of each task alone.

    The mean of `n_trees` regression trees or, for classes, the logarithm of their mean class shares (at least
    1e-6). All other settings are scikit-learn's defaults.

    Args:
        n_outputs: number of targets, or of classes of a task.
        n_trees: size of the forest.
        seed: of the forest's own random numbers, the same for every task.

    Raises:
        MetaLensError: there are no trees, or the seed is negative.

    >>> from metalens import RandomForest, Sinusoid
    >>> task = Sinusoid("test")[0]
    >>> RandomForest(n_outputs=1, n_trees=10)(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: L. Breiman, "Random Forests", Machine Learning 45, 2001; scikit-learn computes it.
    """

    def __init__(self, n_outputs: int, *, n_trees: int = 100, seed: int = 0) -> None:
        super().__init__(n_outputs)
        if n_trees < 1 or seed < 0:
            raise MetaLensError(
                f"RandomForest needs n_trees of at least 1 and a seed of 0 or more, got {n_trees} and {seed}."
            )
        self.n_trees, self.seed = n_trees, seed

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        if classes:
            model = RandomForestClassifier(self.n_trees, random_state=self.seed).fit(x, y)
            return self.log_probabilities(model.predict_proba(new_x), model.classes_)
        targets = y.ravel() if y.shape[1] == 1 else y  # of a single column scikit-learn warns
        model = RandomForestRegressor(self.n_trees, random_state=self.seed).fit(x, targets)
        return model.predict(new_x).reshape(len(new_x), -1)
