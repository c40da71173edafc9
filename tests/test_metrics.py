"""Scores of single tasks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score

from metalens import MAML, MetaLensError, Sinusoid, evaluate, mlp
from metalens.metrics import (
    METRICS,
    average_precision,
    balanced_accuracy,
    meanings,
    pearson_r2,
    primary_metric,
    r2,
    task_metrics,
)


def test_skill_is_the_coefficient_of_determination_and_bounded():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.normal(size=(3, 9, 1)))
    none, near = y[:, :0], y + torch.from_numpy(rng.normal(scale=0.5, size=y.shape))
    expected = [r2_score(true, told) for true, told in zip(y[..., 0], near[..., 0], strict=True)]
    np.testing.assert_allclose(r2(near, y, none), expected)
    np.testing.assert_allclose(r2(1e4 * near + 7, 1e4 * y + 7, none), expected)  # of any unit
    assert r2(y + 100, y, none).tolist() == [-1.0] * 3
    assert 0 < r2(y[:, :1], y[:, :1] + 0.1, y[:, 1:])[0] < 1  # one query has no variance of its own
    equal = torch.full_like(y, 0.1, dtype=torch.float32)
    assert r2(equal + 1, equal, equal).tolist() == [0.0] * 3
    near[1, 2] = torch.inf
    assert r2(near, y, none).isnan().tolist() == [False, True, False]


def test_squared_correlation_is_that_of_numpy():
    rng = np.random.default_rng(0)
    predictions, y = rng.standard_normal((2, 4, 9, 2))
    expected = [
        np.mean([np.corrcoef(p[:, c], t[:, c])[0, 1] ** 2 for c in range(2)])
        for p, t in zip(predictions, y, strict=True)
    ]
    ours = pearson_r2(torch.from_numpy(predictions), torch.from_numpy(y), torch.zeros(4, 0, 2))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_constants_explain_nothing_and_divergence_is_no_score():
    y = torch.tensor([[[1.0], [2.0], [4.0]]])
    assert pearson_r2(torch.full_like(y, 3.0), y, y).tolist() == [0.0]
    assert pearson_r2(y, torch.full_like(y, 3.0), y).tolist() == [0.0]
    constant = torch.full((1, 7, 1), 0.1, dtype=torch.float64)  # whose mean is not exactly 0.1
    assert pearson_r2(constant, torch.randn(1, 7, 1).double(), constant).item() == 0
    assert pearson_r2(y / 0, y, y).isnan().all()
    assert list(task_metrics(y, y, y, ["pearson_r2"])) == ["pearson_r2"]


def test_metrics_are_known_by_name_and_the_first_is_primary():
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {name for name, metric in METRICS.items() if metric.better == "higher"} == {
        "accuracy", "average_precision", "balanced_accuracy", "pearson_r2", "pearson_r2_above_0.3", "r2",
        "roc_auc",
    }  # fmt: skip
    assert {name for name, metric in METRICS.items() if metric.scale == 100} == {
        "accuracy", "average_precision", "balanced_accuracy", "pearson_r2_above_0.3", "roc_auc",
    }  # fmt: skip
    assert primary_metric(["cross_entropy", "accuracy"]) == "cross_entropy"
    with pytest.raises(MetaLensError, match="There is no metric 'elo'"):
        primary_metric(["elo", "r2"])
    assert meanings(["mse", "accuracy"]) == ""
    assert "at least -1" in meanings(["r2", "pearson_r2"])
    assert meanings(["r2", "pearson_r2"]).count("scikit-learn") == 2


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["elo"], "There is no metric 'elo'; choose from accuracy, mse, r2, .*, or add a Metric"),
        (["mase"], "'mase' takes more than predictions and targets; let the distribution compute it"),
    ],
)
def test_unknown_metrics_of_a_distribution_are_refused(extra, words):
    tasks = Sinusoid("test")
    tasks.extra_metrics = extra
    with pytest.raises(MetaLensError, match=words):
        evaluate(MAML(mlp()), tasks, n_tasks=1)
    tasks.extra_metrics = ()
    tasks.extra_scores = lambda numbers, predictions, y: {"elo": y.flatten(1).mean(1)}
    with pytest.raises(MetaLensError, match="There is no metric 'elo'"):
        evaluate(MAML(mlp()), tasks, n_tasks=1)


def test_a_distribution_can_ask_for_the_variance_explained():
    tasks = Sinusoid("test")
    tasks.extra_metrics = ["r2"]
    learner, batch = MAML(mlp()), tasks.batch(range(3))
    scores = evaluate(learner, tasks, n_tasks=3)
    ours = scores[scores.metric == "r2"].value
    predictions = torch.stack([learner(tasks[i].support)(tasks[i].query.x).detach() for i in range(3)])
    np.testing.assert_allclose(ours, r2(predictions, batch.query.y, batch.support.y), rtol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_scores_for_rare_classes_are_those_of_scikit_learn(n_classes):
    rng = np.random.default_rng(n_classes)
    y = rng.choice(n_classes, (20, 12), p=[0.8, *[0.2 / (n_classes - 1)] * (n_classes - 1)])
    logits = rng.normal(size=(20, 12, n_classes)).round(1)  # with ties
    of_all = torch.tensor(logits), torch.tensor(y), torch.tensor(y)
    balanced, precision = balanced_accuracy(*of_all), average_precision(*of_all)
    for task, (scores, labels) in enumerate(zip(logits, y, strict=True)):
        guess = scores.argmax(-1)
        recalls = [np.mean(guess[labels == label] == label) for label in np.unique(labels)]
        assert balanced[task].item() == pytest.approx(np.mean(recalls))
        rarest = min(np.unique(labels), key=lambda label: (np.sum(labels == label), -label))
        chance = torch.tensor(scores).log_softmax(-1)[:, rarest]
        expected = average_precision_score(labels == rarest, chance)
        assert precision[task].item() == pytest.approx(expected)
    assert average_precision(of_all[0] * np.nan, *of_all[1:]).isnan().all()
    assert balanced_accuracy(of_all[0] * np.nan, *of_all[1:]).isnan().all()
