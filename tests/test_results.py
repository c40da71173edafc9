"""From the results of a finished run to intervals, differences, sentences and a table."""

import io
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from small_run import ARMS, classification, regression, table

from metalens.errors import MetaLensError
from metalens.reports import arm_label, outcome, paired_differences, results_table, summarize


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_interval_is_scipys_over_seed_means():
    values = np.random.default_rng(1).normal(1, 0.3, (5, 20))
    row = summarize(table([values])).iloc[0]
    expected = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert (row["n_seeds"], row["n_tasks"], row["diverged"]) == (5, 20, 0)
    np.testing.assert_allclose([row["low"], row["high"]], expected)
    np.testing.assert_allclose([row["mean"], row["median"]], [values.mean(), np.median(values)])


def test_difference_is_scipys_paired_test_over_seed_means():
    generator = np.random.default_rng(2)
    base, other = generator.normal(1, 0.3, (2, 6, 20))
    results = table([base, other]).sample(frac=1, random_state=0)  # pairing is by task, not by place
    row = paired_differences(results, baseline=ARMS[0]).iloc[0]
    test = stats.ttest_rel(other.mean(1), base.mean(1))
    np.testing.assert_allclose([row["low"], row["high"]], test.confidence_interval(0.95))
    np.testing.assert_allclose(row["p"], test.pvalue)
    np.testing.assert_allclose(row["difference"], (other - base).mean())
    np.testing.assert_allclose(row["relative"], (other - base).mean() / base.mean())


def test_single_seed_takes_tasks_as_replicates():
    base, other = np.random.default_rng(3).normal(1, 0.3, (2, 1, 40))
    results = table([base, other])
    expected = stats.ttest_1samp(base[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(summarize(results).loc[0, ["low", "high"]].tolist(), expected)
    expected = stats.ttest_rel(other[0], base[0])
    np.testing.assert_allclose(paired_differences(results)["p"], expected.pvalue)


@pytest.mark.slow
def test_intervals_cover_the_true_mean_in_95_of_100_cases():
    generator, covered = np.random.default_rng(4), 0
    for _ in range(400):
        seeds = generator.normal(0, 1, (4, 1))  # seeds differ more than tasks: tasks are no replicates
        row = summarize(table([seeds + generator.normal(0, 1, (4, 10))])).iloc[0]
        covered += row["low"] <= 0 <= row["high"]
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize("value", [0.1, 0.0, 1 / 3])
def test_no_variance_gives_an_interval_of_no_width(value):
    base = np.random.default_rng(5).normal(2, 0.5, (3, 7))
    row = summarize(table([np.full((3, 7), value)])).iloc[0]
    np.testing.assert_allclose([row["low"], row["high"]], value)
    row = paired_differences(table([base, base + value])).iloc[0]
    np.testing.assert_allclose([row["low"], row["high"]], value, atol=1e-12)
    assert math.isnan(row["p"])
    assert row["verdict"] == ("worse" if value else "no significant difference")


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_diverged_tasks_are_not_hidden(bad):
    base = np.random.default_rng(6).normal(2, 0.5, (3, 10))
    other = base - 1
    other[1, :2] = bad
    summary = summarize(table([base, other]))
    assert not math.isfinite(summary["mean"][1])
    assert math.isnan(summary["low"][1])
    assert summary["diverged"].tolist() == [0, 2 / 30]
    worst = np.where(np.isfinite(other), other, math.inf)
    np.testing.assert_allclose(summary["median"][1], np.median(worst))
    paired = paired_differences(table([base, other]))
    assert paired["verdict"].tolist() == ["undefined"]
    assert (
        "cannot be compared with MAML in mean mse: training or adaptation diverged"
        in outcome(summary, paired)[0]
    )


def test_both_diverged_is_undefined():
    values = np.ones((2, 3))
    values[0, 0] = math.inf
    paired = paired_differences(table([values, values]))
    assert paired[["difference", "low", "relative"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("metric", "verdicts"), [("mse", ["better", "worse"]), ("accuracy", ["worse", "better"])]
)
def test_verdict_knows_the_good_direction(metric, verdicts):
    base, noise = np.random.default_rng(7).normal(0.5, 0.01, (2, 5, 10))
    paired = paired_differences(table([base, base - 0.7 + noise, base - 0.3 + noise], metric))
    assert paired["verdict"].tolist() == verdicts


def test_differences_need_the_same_tasks():
    results = table([np.ones((2, 3)), np.ones((2, 3))])
    with pytest.raises(MetaLensError, match=r"1 have a mse for only one of them \(first: seed 1, task 2\)"):
        paired_differences(results.drop(index=results.index[-1]))
    with pytest.raises(MetaLensError, match="got several for seed 1, task 2"):
        paired_differences(pd.concat([results, results.tail(1)]))
    with pytest.raises(MetaLensError, match="same metrics, got cross_entropy and mse"):
        paired_differences(pd.concat([results.head(6), results.tail(6).assign(metric="cross_entropy")]))
    with pytest.raises(MetaLensError, match=r"an arm of the results \(MAML, MAML \+ TRLearner\), got ANIL"):
        paired_differences(results, baseline=("ANIL", "none", "Uniform"))


def test_single_arm_has_no_differences():
    results = table([np.array([[1.0, 2.0], [2.0, 3.0]])])
    assert paired_differences(results).empty
    assert outcome(summarize(results), paired_differences(results)) == [
        "On 2 seeds × 2 test tasks, MAML has a mean mse of 2.0 (95% interval −4.4 to 8.4)."
    ]


def test_outcome_says_what_came_out_in_plain_words():
    results = classification(np.random.default_rng(0), 5, 100)
    first, second = outcome(summarize(results), paired_differences(results))
    assert re.fullmatch(
        r"On 5 paired seeds × 100 test tasks, MAML \+ TRLearner has a higher accuracy than MAML by [\d.]+ "
        r"percentage points \(95% interval [\d.]+ to [\d.]+\)\.",
        first,
    )
    assert "shows no significant difference in accuracy from MAML: " in second


def test_the_outcome_of_many_arms_is_told_by_verdicts():
    rng = np.random.default_rng(0)
    own = rng.normal(1, 0.01, (5, 20))
    shifts = {
        "MAML": 0,
        "ANIL": -0.5,
        **{f"TNet(inner_lr={i})": 0.3 for i in range(1, 5)},
        "Ridge": np.nan,
        "R2D2": 0,
    }
    frames = []
    for learner, shift in shifts.items():
        noise = rng.normal(0, 0.01, own.shape) if learner == "R2D2" else 0
        frames.append(table([own + shift + noise]).assign(learner=learner))
    results = pd.concat(frames, ignore_index=True)
    assert outcome(summarize(results), paired_differences(results)) == [
        "On 5 paired seeds × 20 test tasks, 7 arms are compared with MAML in mse.",
        "Better (1): ANIL.",
        "Worse (4): TNet(inner_lr=1), TNet(inner_lr=2), TNet(inner_lr=3), TNet(inner_lr=4).",
        "No significant difference (1).",
        "Undefined (1): Ridge.",
        "The best mean is 0.5008, that of ANIL.",
    ]


@pytest.mark.parametrize("make", [regression, classification])
def test_console_table_fits_100_columns(make):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(results_table(make(np.random.default_rng(0), 5, 50)))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "differences to MAML." in " ".join(text.split())
    for learner, *_ in ARMS:
        assert learner in text


def test_label():
    assert [arm_label(*arm) for arm in ARMS[:2]] == ["MAML", "MAML + TRLearner"]
