"""The score that decides is the one that is named, or suits rare classes."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import draws, load_model
from metalens.metrics import METRICS, task_metrics

TINY = {"steps": 20, "hidden": (8,), "baselines": ("MeanPredictor", "JointModel"), "outer_lr": 0.01}
ROLES = {"task": "assay", "target": "y"}


@pytest.fixture(scope="module", autouse=True)
def _little_to_do():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 6)
        patch.setattr(draws, "SHOTS", (0,))
        yield


def assays(share, n=40, rows=20, seed=0):
    """A share of active rows, those with the largest x."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"assay": np.arange(n).repeat(rows), "x": rng.normal(size=n * rows)})
    rank = frame.groupby("assay").x.rank(pct=True)
    return frame.assign(y=np.where(rank > 1 - share, "active", "inactive"))


def fitted(kind, frame, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**TINY, **settings).fit(frame, **ROLES)


@pytest.mark.parametrize(("share", "metric"), [(0.1, "average_precision"), (0.5, "accuracy")])
def test_the_majority_class_is_not_crowned_where_actives_are_rare(share, metric):
    model = fitted(MetaClassifier, assays(share))
    assert model.metric_ == metric
    assert model.chosen_ != "MeanPredictor"
    assert model.weights_[model.k_shot_].get("MeanPredictor", 0) < 0.5


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        (MetaRegressor, "r2"),
        (MetaRegressor, "rmse"),
        pytest.param(MetaRegressor, "mse", marks=pytest.mark.slow),
        pytest.param(MetaRegressor, "pearson_r2", marks=pytest.mark.slow),
        (MetaClassifier, "roc_auc"),
        (MetaClassifier, "brier_score"),
        pytest.param(MetaClassifier, "cross_entropy", marks=pytest.mark.slow),
        pytest.param(MetaClassifier, "balanced_accuracy", marks=pytest.mark.slow),
    ],
)
def test_the_named_score_decides_and_comes_back_from_a_file(kind, metric, tmp_path):
    frame = assays(0.4)
    if kind is MetaRegressor:
        frame["y"] = frame.x * (1 + frame.assay % 3)
    model = fitted(kind, frame, metric=metric)
    model.save(tmp_path / "model")
    again, new = load_model(tmp_path / "model"), frame[frame.assay < 8]
    assert again.metric_ == model.metric_ == metric
    assert model.score(new) == again.score(new)
    assert (model.score(new) < 0) == (METRICS[metric].better == "lower")
    choice = model._choices[model.k_shot_]
    finite = {name: mean for name, mean in choice.means.items() if np.isfinite(mean)}
    best = (max if METRICS[metric].better == "higher" else min)(finite, key=finite.__getitem__)
    assert choice.model == best or abs(finite[choice.model] - finite[best]) < 0.1
    assert metric in set(model.comparison_.metric)


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        (MetaRegressor, "accuracy", "metric must be one of r2, rmse, mse, pearson_r2, got 'accuracy'"),
        (
            MetaClassifier,
            "r2",
            "metric must be one of accuracy, cross_entropy, brier_score, balanced_accuracy",
        ),
    ],
)
def test_unknown_scores_are_refused(kind, metric, message):
    with pytest.raises(MetaLensError, match=message):
        fitted(kind, assays(0.5), metric=metric)


def test_scores_of_rare_classes_need_shared_ones():
    frame = assays(0.5).assign(y=lambda f: f.assay % 20)
    with pytest.raises(MetaLensError, match="metric='roc_auc' is for tasks that share their classes"):
        MetaClassifier(metric="roc_auc", **TINY).fit(frame[["y", "x"]], target="y")


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 12, 2, generator=generator, dtype=torch.float64)
    y = torch.tensor([[0] * 8 + [1] * 4])
    chance = logits[0].softmax(-1)[:, 1].numpy()
    found = task_metrics(logits, y, y, ["roc_auc", "brier_score"])
    assert list(found) == ["roc_auc", "brier_score"]
    assert found["roc_auc"].item() == pytest.approx(roc_auc_score(y[0], chance))
    assert found["brier_score"].item() == pytest.approx(2 * brier_score_loss(y[0], chance))
