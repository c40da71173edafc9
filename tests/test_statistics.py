"""Intervals over seeds and tasks, against known answers, SciPy, statsmodels and simulated runs."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metalens import MultiDomain, Sinusoid, TableTasks
from metalens.statistics.arms import ARM
from metalens.statistics.comparisons import intervals_compared, paired_differences, summarize
from metalens.statistics.intervals import (
    by_seed_and_task,
    estimate,
    hierarchical_bootstrap,
    holm,
    usual_interval,
)


def runs(rng, n_runs, n_seeds, n_tasks, seed, task, rest):
    """Yield scores `(S, T)` with mean 0 of simulated runs whose seeds meet the same tasks."""
    for _ in range(n_runs):
        effects = seed * rng.normal(size=(n_seeds, 1)) + task * rng.normal(size=(1, n_tasks))
        yield effects + rest * rng.normal(size=(n_seeds, n_tasks))


def results_of(values, *, crossed=False, arm="MAML"):
    rows = [
        (arm, "none", "Uniform", seed, task, "mse", value, f"task {task}")
        for (seed, task), value in np.ndenumerate(values)
    ]
    table = pd.DataFrame(rows, columns=[*ARM, "seed", "task", "metric", "value", "source"])
    return table if crossed else table.drop(columns="source")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_seeds", "n_tasks", "effects"),
    [
        (5, 40, (0.3, 1.0, 0.5)),
        (5, 40, (1.0, 0.3, 0.5)),
        (3, 80, (0.2, 1.0, 0.5)),
        (10, 20, (0.5, 0.5, 1.0)),
        (5, 1, (0.0, 0.0, 1.0)),  # what remains where every seed has tasks of its own
        (1, 40, (0.0, 1.0, 0.5)),
    ],
)
def test_95_percent_intervals_cover_the_true_mean_in_93_to_97_of_100_runs(n_seeds, n_tasks, effects):
    found = [estimate(values) for values in runs(np.random.default_rng(0), 4000, n_seeds, n_tasks, *effects)]
    assert 0.93 < np.mean([low <= 0 <= high for _, low, high, _ in found]) < 0.97
    assert 0.03 < np.mean([p < 0.05 for *_, p in found]) < 0.07


@pytest.mark.slow
def test_bootstrap_covers_as_often_and_the_usual_interval_does_not():
    simulated = list(runs(np.random.default_rng(1), 1000, 8, 30, 0.4, 1.0, 0.5))
    boot = [hierarchical_bootstrap(values, resamples=500) for values in simulated]
    assert 0.93 < np.mean([low <= 0 <= high for low, high in boot]) < 0.97
    usual = [usual_interval(values.ravel()) for values in simulated]
    assert np.mean([low <= 0 <= high for low, high in usual]) < 0.7


@pytest.mark.parametrize("shape", [(400, 1), (1, 400), (60, 60)])
def test_bootstrap_agrees_with_student_where_there_is_much(shape):
    values = np.random.default_rng(2).normal(1.0, 0.3, shape)
    np.testing.assert_allclose(hierarchical_bootstrap(values), estimate(values)[1:3], atol=0.004)


def test_bootstrap_knows_that_scores_are_skewed():
    values = np.random.default_rng(3).exponential(size=(1, 30))
    low, high = hierarchical_bootstrap(values)
    assert high - values.mean() > 1.2 * (values.mean() - low)


def test_bootstrap_needs_five_seeds_or_one():
    values = np.random.default_rng(4).normal(size=(5, 30))
    assert np.isfinite([hierarchical_bootstrap(values), hierarchical_bootstrap(values[:1])]).all()
    assert np.isnan([hierarchical_bootstrap(values[:4]), hierarchical_bootstrap(values[:, :1] * 0)]).all()


@pytest.mark.slow
def test_crossed_error_is_of_the_two_way_analysis_of_variance():
    ols, anova = pytest.importorskip("statsmodels.formula.api").ols, pytest.importorskip("statsmodels.api")
    values = next(runs(np.random.default_rng(5), 1, 4, 6, 1.0, 1.0, 1.0))
    table = anova.stats.anova_lm(ols("value ~ C(seed) + C(task)", results_of(values)).fit())
    squares = (table["sum_sq"] / table["df"]).to_dict()
    parts = squares["C(seed)"], squares["C(task)"], -squares["Residual"]
    assert min(parts[:2]) > -parts[2]
    freedom = sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, (3, 5, 15), strict=True))
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts) / 24)
    found = estimate(values)
    np.testing.assert_allclose([found.low, found.high], values.mean() + np.array([-reach, reach]))


def test_without_noise_only_seeds_or_tasks_count():
    seeds, tasks = np.array([[1.0], [2.0], [4.0]]), np.zeros((1, 50))
    np.testing.assert_allclose(estimate(seeds + tasks), estimate(seeds))
    np.testing.assert_allclose(estimate(seeds.T + tasks.T), estimate(seeds.T))


def test_named_tasks_of_all_seeds_are_crossed():
    values = next(runs(np.random.default_rng(6), 1, 5, 20, 0.1, 2.0, 0.1))
    own, shared = (summarize(results_of(values, crossed=crossed)).iloc[0] for crossed in (False, True))
    assert own["mean"] == pytest.approx(shared["mean"])
    assert shared["high"] - shared["low"] > 3 * (own["high"] - own["low"])
    assert (shared["low"], shared["high"]) == pytest.approx(estimate(values)[1:3])
    partly = results_of(values, crossed=True).iloc[1:]  # a task that one seed has not met
    assert by_seed_and_task(partly).shape == (5, 1)


def test_draws_from_one_task_are_no_replicates():
    twice = np.repeat(np.random.default_rng(7).normal(size=(1, 10)), 2, axis=1)
    rows = results_of(twice).assign(source=np.arange(20) // 2)
    assert estimate(by_seed_and_task(rows)) == pytest.approx(estimate(twice[:, ::2]))


def test_paired_tests_are_those_of_scipy_and_corrected_as_by_statsmodels():
    rng = np.random.default_rng(8)
    base = rng.normal(1, 0.3, (4, 25))
    arms = {
        name: base + rng.normal(gain, 0.1, (4, 25))
        for name, gain in zip("abc", (0.0, 0.05, -0.1), strict=True)
    }
    tables = [results_of(base), *(results_of(values, arm=name) for name, values in arms.items())]
    paired = paired_differences(pd.concat(tables)).set_index("learner")
    for name, values in arms.items():
        changes, row = values - base, paired.loc[name]
        assert row["p"] == pytest.approx(stats.ttest_rel(values.mean(1), base.mean(1)).pvalue)
        assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(values.ravel(), base.ravel()).pvalue)
        assert row["effect"] == pytest.approx(changes.mean() / changes.std(ddof=1))
        assert row["wins"] == pytest.approx((changes < 0).mean())
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    np.testing.assert_allclose(paired["p_holm"], multitest.multipletests(paired["p"], method="holm")[1])


def test_holm_agrees_with_statsmodels_and_leaves_out_what_is_undefined():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(9).beta(0.3, 2, 40)
    np.testing.assert_allclose(holm(pd.Series(p)), multitest.multipletests(p, method="holm")[1])
    assert holm(pd.Series([0.02, math.nan, 0.03])).tolist() == pytest.approx(
        [0.04, math.nan, 0.04], nan_ok=True
    )


def test_verdict_counts_how_many_arms_are_compared():
    base = np.zeros((6, 4))
    change = np.array([1.0, 1.5, 0.3, 1.2, 0.4, -0.2])[:, None] + base
    assert 0.02 < estimate(change[:, :1]).p < 0.05
    noise = [np.random.default_rng(seed).normal(size=(6, 1)) + base for seed in range(2)]
    tables = [results_of(base), results_of(change, arm="a")]
    assert paired_differences(pd.concat(tables))["verdict"].tolist() == ["worse"]
    tables += [results_of(values, arm=name) for name, values in zip("bc", noise, strict=True)]
    assert paired_differences(pd.concat(tables))["verdict"].tolist() == ["no significant difference"] * 3


def test_ranks_and_wins_know_the_good_direction_and_who_diverged():
    scores = {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, math.nan], "c": [3.0, 1.0, math.inf]}
    table = pd.concat([results_of(np.array([values]), arm=name) for name, values in scores.items()])
    ranks = stats.rankdata([[1, 2, 3], [2, 2, 9], [3, 1, 9]], axis=0).mean(1)
    assert summarize(table)["rank"].tolist() == ranks.tolist()
    assert paired_differences(table)["wins"].tolist() == [0.5 / 3, 1 / 3]
    accuracies = table.assign(metric="accuracy", value=-table["value"])
    assert summarize(accuracies)["rank"].tolist() == ranks.tolist()
    assert paired_differences(accuracies)["wins"].tolist() == [0.5 / 3, 1 / 3]


def test_three_intervals_stand_beside_each_other():
    values = next(runs(np.random.default_rng(10), 1, 6, 12, 1.0, 1.0, 1.0))
    results = results_of(values, crossed=True)
    row = intervals_compared(results).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(estimate(values)[1:3])
    assert (row["boot_low"], row["boot_high"]) == pytest.approx(
        hierarchical_bootstrap(by_seed_and_task(results))
    )
    reach = 1.96 * values.std(ddof=1) / math.sqrt(72)
    assert (row["usual_low"], row["usual_high"]) == pytest.approx(
        (values.mean() - reach, values.mean() + reach)
    )


def test_distributions_name_what_their_tasks_are_drawn_from():
    rows = pd.DataFrame(
        {"sensor": np.repeat(list("abcdef"), 30), "x": 1.0 * np.arange(180), "y": np.arange(180) % 7.5}
    )
    table = TableTasks(rows, "test", task="sensor", target="y", inputs=["x"], splits=(0.4, 0.2, 0.4))
    n = len(table.task_names)
    assert [table.source(number) for number in range(n + 1)] == [*table.task_names, table.task_names[0]]
    both = MultiDomain({"table": table, "curves": Sinusoid("test")})
    assert [both.source(number) for number in range(2)] == [f"table {table.task_names[0]}", None]
