"""Scores that are the same whatever is predicted, as of one or two query rows, are left out or refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import MeanPredictor, MetaLensError, MetaRegressor, TableTasks, evaluate
from metalens.estimators import draws
from metalens.metrics import METRICS, task_metrics

ROLES = {"task": "pair", "target": "y"}
OF_NUMBERS = ["mse", "rmse", "r2", "pearson_r2", "pearson_r2_above_0.3"]


def pairs(n=40, rows=2):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"pair": np.arange(n).repeat(rows), "x": rng.normal(size=n * rows)})
    return frame.assign(y=frame.x + rng.normal(size=n * rows))


def fitted(rows, **settings):
    """Return a fitted estimator and what it says of its scores."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = MetaRegressor(steps=1, hidden=(4,), baselines=("MeanPredictor",), **settings)
        model.fit(pairs(rows=rows), **ROLES)
    return model, [str(one.message) for one in caught if "nothing with k_shot" in str(one.message)]


@pytest.mark.parametrize(
    ("n_known", "n_queries", "lost"),
    [
        (5, 3, []),
        (0, 3, []),
        (5, 2, ["pearson_r2", "pearson_r2_above_0.3"]),
        (5, 1, ["pearson_r2", "pearson_r2_above_0.3"]),
        (2, 1, ["pearson_r2", "pearson_r2_above_0.3"]),
        (1, 1, ["r2", "pearson_r2", "pearson_r2_above_0.3"]),
        (0, 2, ["r2", "pearson_r2", "pearson_r2_above_0.3"]),
    ],
)
def test_a_score_is_left_out_where_it_does_not_depend_on_predictions(n_known, n_queries, lost):
    y, known = torch.randn(3, n_queries, 1), torch.randn(3, n_known, 1)
    found = task_metrics(torch.randn(3, n_queries, 1), y, known, OF_NUMBERS)
    assert [name for name in OF_NUMBERS if name not in found] == lost


def test_such_scores_are_the_same_for_all_predictions():
    y = torch.randn(50, 2, 1)
    of_two = METRICS["pearson_r2"].function(torch.randn(50, 2, 1), y, y[:, :0])
    torch.testing.assert_close(of_two, torch.ones(50))
    of_pairs = METRICS["r2"].function(y[:, 1:], y[:, :1], y[:, 1:])  # the mean of a single support row
    assert of_pairs.tolist() == [-1] * 50


@pytest.mark.parametrize(
    ("rows", "settings", "metrics", "decides"),
    [
        (2, {}, ["rmse"], "rmse"),
        (3, {}, ["r2", "rmse"], "r2"),
        (8, {"k_shot": 4, "n_query": 2}, ["r2", "rmse"], "r2"),
        (8, {"k_shot": 4, "n_query": 3}, ["r2", "pearson_r2", "rmse"], "r2"),
    ],
)
def test_models_are_compared_by_scores_that_say_something(rows, settings, metrics, decides, monkeypatch):
    monkeypatch.setattr(draws, "SHOTS", ())
    model, notes = fitted(rows, **settings)
    assert model.metric_ == decides
    assert sorted(model.comparison_.metric.unique()) == sorted(metrics)
    lost = [name for name in ("r2", "pearson_r2") if name not in metrics]
    assert len(notes) == bool(lost)
    assert all(note.startswith(f"{' and '.join(lost)} say") for note in notes)
    assert all(note.endswith(f"{decides} decides.") for note in notes)


@pytest.mark.parametrize(
    ("rows", "settings", "size"),
    [
        (2, {"metric": "r2"}, "k_shot=1 support and n_query=1 query rows"),
        (8, {"metric": "pearson_r2", "k_shot": 4, "n_query": 2}, "k_shot=4 support and n_query=2 query rows"),
    ],
)
def test_a_score_that_cannot_decide_is_refused(rows, settings, size):
    with pytest.raises(
        MetaLensError, match=f"'{settings['metric']}' says nothing with {size} of a task; give"
    ):
        fitted(rows, **settings)


def test_no_choice_is_made_for_a_number_of_support_rows_without_a_score(monkeypatch):
    monkeypatch.setattr(draws, "SHOTS", (0, 1))
    monkeypatch.setattr(draws, "_MIN_TASKS", 1)
    model, _ = fitted(6, k_shot=3, n_query=2)
    assert sorted(model.weights_) == [1, 3]  # of no support and two query rows there is no r2


def test_evaluate_leaves_the_correlation_of_two_queries_out():
    tasks = TableTasks(pairs(rows=8), "test", **ROLES, k_shot=3, n_query=2)
    assert set(evaluate(MeanPredictor(1), tasks, n_tasks=3).metric) == {"mse"}
