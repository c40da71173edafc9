"""Gradient boosting on the examples of all tasks."""

from __future__ import annotations

import numpy as np

from metalens.data.checks import check_sizes
from metalens.errors import check_counts, check_positive
from metalens.learners.baselines.boosted_trees import BoostedTrees
from metalens.learners.baselines.boosters import TreeLibrary
from metalens.learners.baselines.fitted import FittedBaseline, TrainingRows


class Boosting(FittedBaseline):
    """Gradient-boosted regression trees on the examples of all training tasks, applied to new tasks as it is.

    `f(x) = c + sum_r t_r(x)`: each tree is fitted to what those before leave of the targets, and its leaves
    are multiplied by the learning rate. The support of a new task is ignored, as by `JointModel`; `Shrunken`
    and `ResidualGP` adapt the same trees to it. The number of rounds has the least squared error on held-out
    training tasks: five parts of whole tasks, each predicted by trees of the others. Of more than 128 inputs,
    each split looks at a random fifth. Each target has trees of its own.

    Args:
        n_outputs: number of targets.
        library: what fits the trees: `"scikit-learn"`, `HistGradientBoostingRegressor`; `"lightgbm"`, of the
            extra of that name; or `"catboost"`, also an extra, with symmetric trees of depth
            `log2(max_leaf_nodes)`, rounded up, whatever `min_samples_leaf` says. What is fitted predicts
            without them.
        learning_rate: of each tree.
        max_rounds: most trees for each target.
        max_leaf_nodes: of a tree.
        min_samples_leaf: examples in a leaf.
        n_tasks: number of training tasks to draw; all examples of those of one name are used.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import Boosting, Objective, Sinusoid, fit
    >>> boosting = Boosting(n_outputs=1, n_tasks=50, max_rounds=10)
    >>> _ = fit(Objective(boosting), Sinusoid(), steps=1, meta_batch_size=1)
    >>> one, other = (boosting(Sinusoid("test")[i].support) for i in range(2))
    >>> x = Sinusoid("test")[0].query.x
    >>> bool((one(x) == other(x)).all())
    True

    Source: J. Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics
    29, 2001.
    """

    def __init__(
        self,
        n_outputs: int,
        *,
        library: TreeLibrary = "scikit-learn",
        learning_rate: float = 0.1,
        max_rounds: int = 400,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 20,
        n_tasks: int = 1000,
    ) -> None:
        super().__init__(n_outputs, n_tasks=n_tasks)
        check_positive(self, learning_rate=learning_rate)
        check_counts(self, max_rounds=max_rounds, min_samples_leaf=min_samples_leaf)
        check_sizes(2, max_leaf_nodes=max_leaf_nodes)
        self.trees = BoostedTrees(
            library=library,
            learning_rate=learning_rate,
            max_rounds=max_rounds,
            max_leaf_nodes=max_leaf_nodes,
            min_samples_leaf=min_samples_leaf,
        )

    def fit_rows(self, rows: TrainingRows) -> None:
        residuals = rows.y - self.trees.fit(rows)
        self.noise = self.noise.new_tensor((residuals**2).mean(0))

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        return self.trees.predict(new_x)
