"""Gradient boosting by scikit-learn, with the trees as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from metalens.learners.baselines.fitted import TrainingRows, resize_when_loaded
from metalens.learners.baselines.global_mean import N_PARTS, GlobalMean, is_binary
from metalens.learners.baselines.partial_pooling import as_array

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

TreeLoss = Literal["squared_error", "absolute_error"]

_FIRST_ROUNDS = 50
_MARGIN = 0.75  # of the rounds tried: with the best below it, more are not tried
_WIDE = 128  # inputs; of more, each split looks at a share
_SHARE_OF_WIDE = 0.2
_MAX_PATHS = 2**22  # of an example through a tree, at a time; bounds memory


class BoostedTrees(GlobalMean):
    """Gradient-boosted regression trees, as many as have the least error on held-out tasks.

    The tasks are divided into 5 parts, each predicted by trees of the others, and the number of rounds is the
    one with the least mean error. It is looked for up to 50, 100, 200, ... rounds, while the best is among
    the last quarter. The trees of all tasks are fitted anew then. Of more than 128 inputs, each split looks
    at a random fifth.

    Args:
        loss: `"squared_error"` or `"absolute_error"`, for the trees and their number.
        learning_rate: of each tree.
        max_rounds: most trees for each target.
        max_leaf_nodes: of a tree.
        min_samples_leaf: examples in a leaf.

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
        learning_rate: float = 0.1,
        max_rounds: int = 400,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 20,
    ) -> None:
        super().__init__()
        self.max_rounds = max_rounds
        self.settings: dict[str, Any] = {
            "loss": loss,
            "early_stopping": False,
            "warm_start": True,
            "random_state": 0,
            "learning_rate": learning_rate,
            "max_leaf_nodes": max_leaf_nodes,
            "min_samples_leaf": min_samples_leaf,
        }
        for name in ("base", "thresholds", "values"):
            self.register_buffer(name, torch.zeros(0))
        for name in ("roots", "outputs", "features"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        self.register_buffer("branches", torch.zeros(0, 2, dtype=torch.int64))
        resize_when_loaded(self)

    def fit(self, rows: TrainingRows) -> np.ndarray:
        parts, predictions, models = rows.parts(N_PARTS), np.empty_like(rows.y), []
        for output, y in enumerate(rows.y.T):
            predictions[:, output], rounds = self._cross_fitted(rows.x, y, parts)
            models.append(self._boosted(rows.x, rounds).fit(rows.x, y))
        self._take(models)
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

    def _boosted(self, x: np.ndarray, rounds: int) -> HistGradientBoostingRegressor:
        """Return an unfitted model for inputs `(n, d)`."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(
            max_iter=rounds,
            max_features=1.0 if x.shape[1] <= _WIDE else _SHARE_OF_WIDE,
            max_bins=2 if is_binary(x) else 255,  # as many as bits have values, for speed
            **self.settings,
        )

    def _cross_fitted(self, x: np.ndarray, y: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, int]:
        """Return predictions by trees of the other parts, `(n,)`, and the best number of rounds."""
        rounds = min(_FIRST_ROUNDS, self.max_rounds)
        models = {part: self._boosted(x, rounds) for part in np.unique(parts)}
        while True:
            stages = np.empty((rounds, len(y)), np.float32)
            for part, model in models.items():
                inside = parts == part
                model.set_params(max_iter=rounds).fit(x[~inside], y[~inside])
                stages[:, inside] = list(model.staged_predict(x[inside]))
            errors = np.abs(stages - y)
            best = int((errors if self.settings["loss"] == "absolute_error" else errors**2).mean(1).argmin())
            if best + 1 < _MARGIN * rounds or rounds == self.max_rounds:
                return stages[best].astype(float), best + 1
            rounds = min(2 * rounds, self.max_rounds)

    def _take(self, models: list[HistGradientBoostingRegressor]) -> None:
        """Keep the trees of a model of each target."""
        trees = [(output, of_round[0].nodes) for output, m in enumerate(models) for of_round in m._predictors]
        sizes = np.array([len(nodes) for _, nodes in trees])
        nodes, starts = np.concatenate([nodes for _, nodes in trees]), np.cumsum(sizes) - sizes
        offsets, own = starts.repeat(sizes), np.arange(len(nodes))
        is_leaf = nodes["is_leaf"].astype(bool)
        branches = np.stack(
            [np.where(is_leaf, own, nodes[side] + offsets) for side in ("left", "right")], axis=1
        )

        def whole(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values.astype(np.int64), device=self.base.device)

        self.base = self.base.new_tensor([float(np.ravel(m._baseline_prediction)[0]) for m in models])
        self.roots, self.branches = whole(starts), whole(branches)
        self.outputs = whole(np.array([output for output, _ in trees]))
        self.features = whole(np.where(is_leaf, 0, nodes["feature_idx"]))
        self.thresholds = _rounded_down(np.where(is_leaf, 0.0, nodes["num_threshold"]), self.base)
        self.values = self.base.new_tensor(np.where(is_leaf, nodes["value"], 0.0))


def _rounded_down(numbers: np.ndarray, like: Tensor) -> Tensor:
    """Return numbers in the precision of a tensor, none above itself: what is at most x stays at most x."""
    exact = torch.as_tensor(numbers, dtype=torch.float64, device=like.device)
    near = exact.to(like.dtype)
    below = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near.double() > exact, below, near)
