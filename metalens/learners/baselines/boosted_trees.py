"""Gradient boosting by a library, with the trees as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metalens.errors import check_choice
from metalens.learners.baselines.boosters import BOOSTERS, Booster, TreeLibrary, TreeLoss, Trees
from metalens.learners.baselines.fitted import TrainingRows, resize_when_loaded
from metalens.learners.baselines.global_mean import N_PARTS, GlobalMean
from metalens.learners.baselines.partial_pooling import as_array

_FIRST_ROUNDS = 50
_MARGIN = 0.75  # of the rounds tried: with the best below it, more are not tried
_MAX_PATHS = 2**22  # of an example through a tree, at a time; bounds memory


class BoostedTrees(GlobalMean):
    """Gradient-boosted regression trees, as many as have the least error on held-out tasks.

    The tasks are divided into 5 parts, each predicted by trees of the others, and the number of rounds is the
    one with the least mean error. It is looked for up to 50, 100, 200, ... rounds, while the best is among
    the last quarter. The trees of all tasks are fitted anew then. Of more than 128 inputs, each split looks
    at a random fifth.

    Args:
        loss: `"squared_error"` or `"absolute_error"`, for the trees and their number.
        library: what fits the trees, see `Boosting`.
        learning_rate: of each tree.
        max_rounds: most trees for each target.
        max_leaf_nodes: of a tree.
        min_samples_leaf: examples in a leaf; CatBoost does not ask for it.

    Attributes:
        base: what the trees of each target add to, `(c,)`.
        roots: the first node of each tree.
        outputs: the target of each tree.
        features: the input that a node looks at.
        thresholds: examples with at most this value go to the first of the `branches`, others to the second.
        branches: of each node, `(nodes, 2)`; a leaf is its own.
        values: of leaves, `(nodes,)`.
    """

    base: Tensor
    roots: Tensor
    outputs: Tensor
    features: Tensor
    thresholds: Tensor
    branches: Tensor
    values: Tensor

    def __init__(
        self,
        *,
        loss: TreeLoss = "squared_error",
        library: TreeLibrary = "scikit-learn",
        learning_rate: float = 0.1,
        max_rounds: int = 400,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 20,
    ) -> None:
        super().__init__()
        check_choice(self, "library", library, TreeLibrary)
        self.loss: TreeLoss = loss
        self.library: TreeLibrary = library
        self.learning_rate, self.max_rounds = learning_rate, max_rounds
        self.max_leaf_nodes, self.min_samples_leaf = max_leaf_nodes, min_samples_leaf
        for name in ("base", "thresholds", "values"):
            self.register_buffer(name, torch.zeros(0))
        for name in ("roots", "outputs", "features"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        self.register_buffer("branches", torch.zeros(0, 2, dtype=torch.int64))
        resize_when_loaded(self)

    def fit(self, rows: TrainingRows) -> np.ndarray:
        parts, predictions, found = rows.parts(N_PARTS), np.empty_like(rows.y), []
        for output, y in enumerate(rows.y.T):
            predictions[:, output], rounds = self._cross_fitted(rows.x, y, parts)
            booster = self._booster()
            booster.fit(rows.x, y, rounds)
            found.append(booster.trees())
        self._take(found)
        return predictions

    def predict(self, x: np.ndarray) -> np.ndarray:
        n = max(1, _MAX_PATHS // max(1, len(self.roots)))
        parts = np.split(x, range(n, len(x), n))
        roots, outputs, features, branches = (
            part.cpu().numpy() for part in (self.roots, self.outputs, self.features, self.branches)
        )
        thresholds, values, base = map(as_array, (self.thresholds, self.values, self.base))
        target_of_tree = np.eye(len(base))[outputs]
        predictions = []
        for part in parts:
            rows, nodes = np.arange(len(part))[:, None], np.broadcast_to(roots, (len(part), len(roots)))
            while True:
                goes_on = (part[rows, features[nodes]] > thresholds[nodes]).astype(int)
                if np.array_equal(below := branches[nodes, goes_on], nodes):
                    break
                nodes = below
            predictions.append(base + values[nodes] @ target_of_tree)
        return np.concatenate(predictions)

    def _booster(self) -> Booster:
        kind = BOOSTERS[self.library]
        return kind(self.loss, self.learning_rate, self.max_leaf_nodes, self.min_samples_leaf)

    def _cross_fitted(self, x: np.ndarray, y: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, int]:
        """Return predictions by trees of the other parts, `(n,)`, and the best number of rounds."""
        rounds = min(_FIRST_ROUNDS, self.max_rounds)
        boosters = {part: self._booster() for part in np.unique(parts)}
        while True:
            stages = np.empty((rounds, len(y)), np.float32)
            for part, booster in boosters.items():
                inside = parts == part
                booster.fit(x[~inside], y[~inside], rounds)
                found = booster.stages(x[inside])
                stages[:, inside] = found[np.arange(rounds).clip(max=len(found) - 1)]
            errors = np.abs(stages - y)
            best = int((errors if self.loss == "absolute_error" else errors**2).mean(1).argmin())
            if best + 1 < _MARGIN * rounds or rounds == self.max_rounds:
                return stages[best].astype(float), best + 1
            rounds = min(2 * rounds, self.max_rounds)

    def _take(self, of_targets: list[Trees]) -> None:
        """Keep the trees of each target."""
        sizes = np.concatenate([trees.sizes for trees in of_targets])
        starts = np.cumsum(sizes) - sizes
        features, thresholds, branches, values = (
            np.concatenate([getattr(trees, name) for trees in of_targets])
            for name in ("features", "thresholds", "branches", "values")
        )

        def whole(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values.astype(np.int64), device=self.base.device)

        self.base = self.base.new_tensor([trees.base for trees in of_targets])
        self.outputs = whole(np.repeat(np.arange(len(of_targets)), [len(t.sizes) for t in of_targets]))
        self.roots, self.features = whole(starts), whole(features)
        self.branches = whole(branches + starts.repeat(sizes)[:, None])
        self.thresholds = _rounded_down(thresholds, self.base)
        self.values = self.base.new_tensor(values)


def _rounded_down(numbers: np.ndarray, like: Tensor) -> Tensor:
    """Return numbers in the precision of a tensor, none above itself: what is at most x stays at most x."""
    exact = torch.as_tensor(numbers, dtype=torch.float64, device=like.device)
    near = exact.to(like.dtype)
    below = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near.double() > exact, below, near)
