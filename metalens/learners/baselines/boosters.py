"""Gradient boosting by scikit-learn, LightGBM or CatBoost, whose fitted trees are arrays."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np

from metalens.errors import extra
from metalens.learners.baselines.global_mean import is_binary

TreeLoss = Literal["squared_error", "absolute_error"]
TreeLibrary = Literal["scikit-learn", "lightgbm", "catboost"]

_WIDE = 128  # inputs; of more, each split looks at a share
_SHARE_OF_WIDE = 0.2


class Trees(NamedTuple):
    """Trees of one target, which add to a base.

    Attributes:
        base: what the trees add to.
        sizes: the number of nodes of each tree.
        features: the input that a node looks at, `(nodes,)`.
        thresholds: examples with at most this value go to the first of the `branches`.
        branches: of each node, counted from the first of its tree, `(nodes, 2)`; a leaf is its own.
        values: of leaves, `(nodes,)`.
    """

    base: float
    sizes: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    branches: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, base: float, trees: list[_Nodes]) -> Trees:
        """Return trees, each with nodes of its own."""
        parts = [np.concatenate(part) for part in zip(*trees, strict=True)] if trees else _NO_NODES
        return cls(base, np.array([len(tree.values) for tree in trees], int), *parts)


class _Nodes(NamedTuple):
    """The nodes of a tree, as in `Trees`."""

    features: np.ndarray
    thresholds: np.ndarray
    branches: np.ndarray
    values: np.ndarray


_NO_NODES = _Nodes(np.zeros(0, int), np.zeros(0), np.zeros((0, 2), int), np.zeros(0))


@dataclass
class Booster(ABC):
    """Boosted trees of one target.

    Attributes:
        loss: that the trees descend.
        learning_rate: of each tree.
        max_leaf_nodes: of a tree.
        min_samples_leaf: examples in a leaf.
    """

    loss: TreeLoss
    learning_rate: float
    max_leaf_nodes: int
    min_samples_leaf: int

    @abstractmethod
    def fit(self, x: np.ndarray, y: np.ndarray, rounds: int) -> None:
        """Fit trees to inputs `(n, d)` and targets `(n,)`; called again only with more rounds."""

    @abstractmethod
    def stages(self, x: np.ndarray) -> np.ndarray:
        """Return predictions after each round, `(rounds, n)`; fewer if later trees change nothing."""

    @abstractmethod
    def trees(self) -> Trees:
        """Return what was fitted."""


class ScikitLearnBooster(Booster):
    """`HistGradientBoostingRegressor`, which goes on with the trees it has."""

    def fit(self, x: np.ndarray, y: np.ndarray, rounds: int) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        if not hasattr(self, "_model"):
            self._model = HistGradientBoostingRegressor(
                loss=self.loss,
                learning_rate=self.learning_rate,
                max_leaf_nodes=self.max_leaf_nodes,
                min_samples_leaf=self.min_samples_leaf,
                max_features=_share_of_inputs(x),
                max_bins=2 if is_binary(x) else 255,  # as many as bits have values, for speed
                early_stopping=False,  # pyright: ignore[reportArgumentType] # its stubs know only "auto"
                warm_start=True,
                random_state=0,
            )
        self._model.set_params(max_iter=rounds).fit(x, y)

    def stages(self, x: np.ndarray) -> np.ndarray:
        return np.array(list(self._model.staged_predict(x)))

    def trees(self) -> Trees:
        found = []
        for (predictor,) in self._model._predictors:
            nodes, own = predictor.nodes, np.arange(len(predictor.nodes))
            is_leaf = nodes["is_leaf"].astype(bool)
            branches = [np.where(is_leaf, own, nodes[side]) for side in ("left", "right")]
            found.append(
                _Nodes(
                    np.where(is_leaf, 0, nodes["feature_idx"]),
                    np.where(is_leaf, 0.0, nodes["num_threshold"]),
                    np.stack(branches, axis=1),
                    np.where(is_leaf, nodes["value"], 0.0),
                )
            )
        return Trees.of(float(np.ravel(self._model._baseline_prediction)[0]), found)


class LightGBMBooster(Booster):
    """`lightgbm.train`, whose first tree holds the mean."""

    def fit(self, x: np.ndarray, y: np.ndarray, rounds: int) -> None:
        with extra("lightgbm"):
            import lightgbm  # pyright: ignore[reportMissingImports]

        settings = {
            "objective": "regression" if self.loss == "squared_error" else "regression_l1",
            "learning_rate": self.learning_rate,
            "num_leaves": self.max_leaf_nodes,
            "min_data_in_leaf": self.min_samples_leaf,
            "feature_fraction_bynode": _share_of_inputs(x),
            "deterministic": True,
            "force_row_wise": True,
            "seed": 0,
            "verbose": -1,
        }
        self._model = lightgbm.train(settings, lightgbm.Dataset(x, y), rounds)
        roots = [tree["tree_structure"] for tree in self._model.dump_model()["tree_info"]]
        self._nodes = [_listed(root) for root in roots]

    def stages(self, x: np.ndarray) -> np.ndarray:
        leaves = np.reshape(self._model.predict(x, pred_leaf=True), (len(x), -1)).T.astype(int)
        values = [
            np.array([node["leaf_value"] for node in sorted(nodes, key=_leaf_index) if "leaf_value" in node])
            for nodes in self._nodes
        ]
        return np.cumsum([of_tree[leaf] for of_tree, leaf in zip(values, leaves, strict=True)], axis=0)

    def trees(self) -> Trees:
        return Trees.of(0.0, [_of_lightgbm(nodes) for nodes in self._nodes])


class CatBoostBooster(Booster):
    """`CatBoostRegressor`, with symmetric trees: all nodes of a level ask the same."""

    def fit(self, x: np.ndarray, y: np.ndarray, rounds: int) -> None:
        with extra("catboost"):
            import catboost  # pyright: ignore[reportMissingImports]

        self._constant = float(np.median(y) if self.loss == "absolute_error" else y.mean())
        self._model = None
        if np.ptp(y) == 0 or not np.ptp(x, axis=0).any():  # which CatBoost refuses
            return
        self._model = catboost.CatBoostRegressor(
            loss_function="RMSE" if self.loss == "squared_error" else "MAE",
            iterations=rounds,
            learning_rate=self.learning_rate,
            depth=math.ceil(math.log2(self.max_leaf_nodes)),
            rsm=_share_of_inputs(x),
            random_seed=0,
            allow_writing_files=False,
            verbose=False,
        ).fit(x, y)

    def stages(self, x: np.ndarray) -> np.ndarray:
        if self._model is None:
            return np.full((1, len(x)), self._constant)
        return np.array(list(self._model.staged_predict(x)))

    def trees(self) -> Trees:
        if self._model is None:
            return Trees.of(self._constant, [])
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.json"
            self._model.save_model(str(path), format="json")
            saved = json.loads(path.read_text(encoding="utf-8"))
        scale, (base,) = saved["scale_and_bias"]
        return Trees.of(base, [_of_catboost(tree, scale) for tree in saved["oblivious_trees"]])


BOOSTERS: dict[TreeLibrary, type[Booster]] = {
    "scikit-learn": ScikitLearnBooster,
    "lightgbm": LightGBMBooster,
    "catboost": CatBoostBooster,
}


def _share_of_inputs(x: np.ndarray) -> float:
    """Return the share of inputs that each split looks at."""
    return 1.0 if x.shape[1] <= _WIDE else _SHARE_OF_WIDE


def _listed(root: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a tree, each before those below it, whose places are `at`."""
    nodes = [root]
    for node in nodes:
        for side in ("left_child", "right_child"):
            if side in node:
                node[side]["at"] = len(nodes)
                nodes.append(node[side])
    return nodes


def _leaf_index(node: dict[str, Any]) -> int:
    return node.get("leaf_index", 0)  # a tree of a single leaf has no number for it


def _of_lightgbm(nodes: list[dict[str, Any]]) -> _Nodes:
    is_leaf = ["leaf_value" in node for node in nodes]
    sides = [
        (place, place) if leaf else (node["left_child"]["at"], node["right_child"]["at"])
        for place, (node, leaf) in enumerate(zip(nodes, is_leaf, strict=True))
    ]
    return _Nodes(
        np.array([node.get("split_feature", 0) for node in nodes]),
        np.array([node.get("threshold", 0.0) for node in nodes], float),
        np.array(sides),
        np.array([node.get("leaf_value", 0.0) for node in nodes], float),
    )


def _of_catboost(tree: dict[str, Any], scale: float) -> _Nodes:
    """Return the nodes of a symmetric tree, level by level.

    Node p of level l is reached by the answers to the first l questions, the bits of p, the first the lowest;
    so are the leaves.
    """
    splits = tree["splits"] or []
    sizes = 2 ** np.arange(len(splits) + 1)
    first, own = sizes[-1] - 1, np.arange(2 * sizes[-1] - 1)
    branches = np.stack([own, own], axis=1)
    for level, size in enumerate(sizes[:-1]):
        below = 2 * size - 1 + np.arange(size)
        branches[size - 1 : 2 * size - 1] = np.stack([below, below + 2**level], axis=1)
    features, thresholds, values = np.zeros(len(own), int), np.zeros(len(own)), np.zeros(len(own))
    features[:first] = np.repeat([split["float_feature_index"] for split in splits], sizes[:-1])
    thresholds[:first] = np.repeat([split["border"] for split in splits], sizes[:-1])
    values[first:] = scale * np.array(tree["leaf_values"])
    return _Nodes(features, thresholds, branches, values)
