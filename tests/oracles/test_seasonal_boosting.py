"""Boosting on lags against scikit-learn on lags of a plain loop, and against what it should learn."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from metalens import (
    Examples,
    MetaLensError,
    Objective,
    SeasonalBoosting,
    SeasonalNaive,
    SeriesTasks,
    evaluate,
    fit,
)
from metalens.learners.baselines.boosted_trees import BoostedTrees
from metalens.learners.baselines.fitted import TrainingRows


def lags_of(x, h, m):
    """The lags of one window at one step, written out."""
    n, last = len(x), len(x) - 1

    def at(place):
        return x[min(max(place, 0), last)]

    now = n - m + h % m
    naive, seasons = x[now], min(n // m, 8)
    means = [np.mean(x[n - m * back : n - m * (back - 1)]) for back in range(1, seasons + 1)]
    changes = [
        np.mean([abs(x[n - m * back + i] - x[n - m * (back + 1) + i]) for i in range(m)])
        for back in range(1, seasons)
    ]
    half = m // 2 + 1
    relative = [at(now - m * back) for back in range(1, seasons)]
    relative += [at(now + offset) for offset in (-2, -1, 1, 2)] + [x[last], x[last - 1]]
    relative += [x[last - back] for back in (m, m + 1) if back < n]
    relative += [means[0], np.mean(x[n - seasons * m :])]
    relative += [np.median([x[now - m * back] for back in range(seasons)]), x[h % n]]
    lags = [value - naive for value in relative]
    lags += [naive, *(mean - means[0] for mean in means[1:]), x[h % n] - at(h % n - m)]
    lags.append(np.mean(x[n - half :]) - np.mean(x[max(0, n - half - m) :][:half]))
    lags += [changes[0], np.mean(changes)] if changes else []
    return [*lags, np.std(x), h, h // m], naive


@pytest.mark.parametrize(("length", "season", "horizon"), [(12, 3, 5), (9, 4, 4), (6, 6, 14), (8, 1, 2)])
def test_it_is_scikit_learn_on_lags(length, season, horizon):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, length)), rng.normal(size=(60, horizon))
    learner = SeasonalBoosting(horizon, season=season, max_rounds=8, n_rows=10**6).double()
    learner.fit_rows(TrainingRows(x, y, np.arange(60) % 6))
    pairs = [lags_of(window, h, season) for window in x for h in range(horizon)]
    lags, naive = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    order = np.random.default_rng(0).choice(60 * horizon, 60 * horizon, replace=False)
    trees = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=len(learner.trees.roots), learning_rate=0.08, early_stopping=False,
        random_state=0,
    ).fit(lags[order], (y.ravel() - naive)[order])  # fmt: skip
    support = Examples(torch.from_numpy(x[:2]), torch.from_numpy(y[:2]))
    found = learner(support)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found.ravel(), naive + trees.predict(lags), rtol=1e-9, atol=1e-9)


def test_rounds_have_the_least_absolute_error_on_whole_tasks():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2))
    y = x[:, :1] + rng.standard_t(1.5, size=(300, 1))
    rows, trees = TrainingRows(x, y, np.arange(300) % 30), BoostedTrees(loss="absolute_error", max_rounds=50)
    trees.fit(rows)
    parts, stages = rows.parts(5), np.empty((50, 300))
    for part in range(5):
        settings = {"loss": "absolute_error", "max_iter": 50, "early_stopping": False, "random_state": 0}
        model = HistGradientBoostingRegressor(**settings).fit(x[parts != part], y[parts != part, 0])
        stages[:, parts == part] = list(model.staged_predict(x[parts == part]))
    absolute, squared = (np.abs(stages - y[:, 0]) ** power for power in (1, 2))
    assert len(trees.roots) == absolute.mean(1).argmin() + 1
    assert absolute.mean(1).argmin() != squared.mean(1).argmin()


def test_it_learns_what_the_naive_forecast_cannot_know():
    """Weekends are lower: the value a week before says so, and that of yesterday does not."""
    rng, days = np.random.default_rng(0), np.arange(140)
    base = np.where(days % 7 < 5, 10.0, 4.0)
    series = base * rng.uniform(1, 20, (40, 1)) * (1 + 0.02 * rng.normal(size=(40, 140)))
    tasks = {
        split: SeriesTasks(series, split, length=7, horizon=3, k_shot=2, n_query=4)
        for split in ("train", "test")
    }
    learner = SeasonalBoosting(3, n_tasks=100, max_rounds=30, max_leaf_nodes=8)
    fit(Objective(learner), tasks["train"], steps=1, meta_batch_size=1)
    naive = evaluate(SeasonalNaive(3), tasks["test"], n_tasks=6)
    found = evaluate(learner, tasks["test"], n_tasks=6)
    mase = [rows[rows.metric == "mase"].value.mean() for rows in (naive, found)]
    assert mase[1] < 0.2 * mase[0]


def test_what_it_cannot_forecast_is_one_sentence():
    x, y = torch.randn(4, 6), torch.randn(4, 2)
    learner = SeasonalBoosting(2, season=7)
    with pytest.raises(MetaLensError, match="is not trained"):
        learner(Examples(x, y))
    with pytest.raises(MetaLensError, match="windows of 7 values or more, got 6"):
        learner.fit_rows(TrainingRows(x.numpy(), y.numpy(), np.arange(4)))
    for settings in ({"season": 0}, {"max_leaf_nodes": 1}, {"learning_rate": 0.0}, {"n_rows": 0}):
        with pytest.raises(MetaLensError, match=next(iter(settings))):
            SeasonalBoosting(2, **settings)
    SeasonalBoosting(2, max_leaf_nodes=2)  # the fewest
