"""Trees of LightGBM and CatBoost are kept without them, and predict what these do."""

import numpy as np
import pytest
import torch

from metalens import Boosting, Examples, MetaLensError, Objective, Shrunken
from metalens.learners.baselines.boosted_trees import BoostedTrees
from metalens.learners.baselines.boosters import BOOSTERS, TreeLibrary
from metalens.learners.baselines.fitted import TrainingRows

PACKAGES: list[TreeLibrary] = ["lightgbm", "catboost"]


def rows_of(seed: int, d: int = 4, c: int = 1, *, binary: bool = False) -> TrainingRows:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, d))
    x = (x > 0).astype(float) if binary else x
    x[:, 1] = 3.0  # a constant input
    y = np.stack([np.sin(2 * x[:, 0]) + (number + 1) * x[:, -1] for number in range(c)], axis=1)
    y = 20 + y + 0.1 * rng.standard_normal(y.shape)
    return TrainingRows(x.astype(np.float32), y, np.arange(400) % 40)


def of_library(library: TreeLibrary, loss: str, x: np.ndarray, y: np.ndarray, rounds: int):
    """The library's own model, as people call it."""
    if library == "lightgbm":
        lightgbm = pytest.importorskip("lightgbm", reason="the extra lightgbm is not installed")
        return lightgbm.LGBMRegressor(
            n_estimators=rounds,
            objective="regression" if loss == "squared_error" else "regression_l1",
            num_leaves=8,
            min_child_samples=5,
            random_state=0,
            verbose=-1,
        ).fit(x, y)
    catboost = pytest.importorskip("catboost", reason="the extra catboost is not installed")
    return catboost.CatBoostRegressor(
        iterations=rounds,
        loss_function="RMSE" if loss == "squared_error" else "MAE",
        depth=3,
        learning_rate=0.1,
        random_seed=0,
        verbose=False,
        allow_writing_files=False,
    ).fit(x, y)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
@pytest.mark.parametrize("library", PACKAGES)
def test_trees_are_those_of_the_library(library, loss, binary):
    pytest.importorskip(library, reason=f"the extra {library} is not installed")
    rows = rows_of(0, c=2, binary=binary)
    trees = BoostedTrees(library=library, loss=loss, max_rounds=30, max_leaf_nodes=8, min_samples_leaf=5)
    trees.double().fit(rows)
    new = np.concatenate([rows_of(1, binary=binary).x, rows.x])
    for output in range(2):
        rounds = int((trees.outputs == output).sum())
        expected = of_library(library, loss, rows.x, rows.y[:, output], rounds).predict(new)
        np.testing.assert_allclose(trees.predict(new)[:, output], expected, rtol=1e-9)


@pytest.mark.parametrize("library", PACKAGES)
def test_stages_are_the_predictions_after_each_round(library):
    pytest.importorskip(library, reason=f"the extra {library} is not installed")
    rows = rows_of(2)
    booster = BOOSTERS[library]("squared_error", 0.1, 8, 5)
    booster.fit(rows.x, rows.y[:, 0], 6)
    stages = booster.stages(rows.x)
    assert len(stages) == 6
    for rounds in (1, 6):
        expected = of_library(library, "squared_error", rows.x, rows.y[:, 0], rounds).predict(rows.x)
        np.testing.assert_allclose(stages[rounds - 1], expected, rtol=1e-9)


@pytest.mark.parametrize("library", PACKAGES)
@pytest.mark.parametrize("constant", ["x", "y"])
def test_what_cannot_be_split_is_predicted_by_the_mean(library, constant):
    pytest.importorskip(library, reason=f"the extra {library} is not installed")
    rows = rows_of(3)
    rows = rows._replace(**{constant: np.ones_like(getattr(rows, constant))})
    trees = BoostedTrees(library=library, max_rounds=60).double()
    assert np.isfinite(trees.fit(rows)).all()
    np.testing.assert_allclose(trees.predict(rows.x[:3]), rows.y.mean(0, keepdims=True).repeat(3, 0))


@pytest.mark.parametrize("library", PACKAGES)
def test_what_is_fitted_is_kept_with_the_weights(library):
    pytest.importorskip(library, reason=f"the extra {library} is not installed")
    rows = rows_of(4)
    new = torch.tensor(rows.x[50:60])
    support = Examples(torch.tensor(rows.x[:4]), torch.tensor(rows.y[:4]).float())
    for learner, again in (
        (Boosting(1, library=library, max_rounds=20), Boosting(1)),
        (Shrunken(1, mean=library), Shrunken(1)),
    ):
        learner.fit_rows(rows)
        Objective(again).load_state_dict(Objective(learner).state_dict())
        assert torch.equal(learner(support)(new), again(support)(new))
        assert torch.cdist(learner(support)(new), torch.tensor(rows.y[50:60]).float()).diagonal().max() < 1


def test_a_missing_package_and_another_library_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(
        MetaLensError, match=r"lightgbm is not installed; run pip install 'metalens\[lightgbm\]'"
    ):
        Boosting(1, library="lightgbm").fit_rows(rows_of(5))
    with pytest.raises(
        MetaLensError, match="library must be one of scikit-learn, lightgbm, catboost, got 'xgboost'"
    ):
        Boosting(1, library="xgboost")
