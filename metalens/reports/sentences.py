"""Results as sentences."""

import math

import pandas as pd

from metalens.metrics import METRICS, primary_metric
from metalens.relations.clusters import MIN_SPREAD
from metalens.relations.weights import MIN_ROW_SUM
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.intervals import MIN_SEEDS
from metalens.statistics.numbers import decimals, number, unit
from metalens.training.nonfinite import FAULTS

MAX_ARMS = 6  # beside the baseline, with a sentence each; more are grouped by their verdicts
NEEDED = [f"trlearner_{name}" for name in ("mean", "spread", "share")]


def outcome(summary: pd.DataFrame, paired: pd.DataFrame) -> list[str]:
    """Return the outcome in the primary metric, a sentence for every arm but the baseline.

    Args:
        summary: from `summarize`.
        paired: from `paired_differences`.

    Returns:
        Sentences, the first with the numbers of seeds and tasks; of a single arm, one on its mean; of more
        than 6 arms, which are better and worse, and the best mean.

    >>> rows = [("MAML", 0, 1.0), ("MAML", 1, 2.0), ("ANIL", 0, 1.52), ("ANIL", 1, 2.5)]
    >>> results = pd.DataFrame(rows, columns=["learner", "seed", "value"])
    >>> results = results.assign(regularizers="none", sampler="Uniform", task=0, metric="mse")
    >>> from metalens.reports import paired_differences, summarize
    >>> outcome(summarize(results), paired_differences(results))
    ['On 2 paired seeds × 1 test task, ANIL has a higher mse than MAML by 0.51 (95% interval 0.38 to 0.64).']
    """
    metric = primary_metric(summary["metric"])
    rows = paired[paired["metric"] == metric]
    if rows.empty:
        row = summary.iloc[0]
        mean, low, high = _texts(row, "mean", metric)
        interval = "no interval" if math.isnan(row["low"]) else f"95% interval {low} to {high}"
        scored = f"{arm_label(*row[ARM])} has a mean {metric} of {mean}{unit(metric)}"
        return [f"On {size_in_words(row)}, {scored} ({interval})."]
    if len(rows) > MAX_ARMS:
        sentences = _verdicts_in_words(summary[summary["metric"] == metric], rows, metric)
    else:
        sentences = [difference_in_words(row, metric) for _, row in rows.iterrows()]
    sentences[0] = f"On {size_in_words(rows.iloc[0], 'paired ')}, {sentences[0]}"
    return sentences


def _verdicts_in_words(summary: pd.DataFrame, rows: pd.DataFrame, metric: str) -> list[str]:
    baseline, *_ = summary[ARM].itertuples(index=False)
    labels = pd.Series([arm_label(*arm) for arm in rows[ARM].itertuples(index=False)], index=rows.index)
    sentences = [f"{len(rows)} arms are compared with {arm_label(*baseline)} in {metric}."]
    for verdict in ("better", "worse", "no significant difference", "undefined"):
        arms = labels[rows["verdict"] == verdict]
        names = f": {', '.join(arms)}" if verdict != "no significant difference" else ""
        if len(arms):
            sentences.append(f"{verdict.capitalize()} ({len(arms)}){names}.")
    finite = summary[summary["mean"].abs() < math.inf]
    if len(finite):
        means = finite["mean"]
        best = finite.loc[means.idxmax() if METRICS[metric].better == "higher" else means.idxmin()]
        mean, *_ = _texts(best, "mean", metric)
        sentences.append(f"The best mean is {mean}{unit(metric)}, that of {arm_label(*best[ARM])}.")
    return sentences


def difference_in_words(row: pd.Series, metric: str) -> str:
    """Return a sentence that compares an arm with the baseline.

    Args:
        row: of `paired_differences`.
        metric: its metric.
    """
    label, baseline = arm_label(*row[ARM]), row["baseline"]
    if row["verdict"] == "undefined":
        reason = "there is a single replicate"
        if not math.isfinite(row["difference"]):
            reason = "training or adaptation diverged on some tasks; compare the medians"
        return f"{label} cannot be compared with {baseline} in mean {metric}: {reason}."
    points = unit(metric, " percentage points")
    if row["verdict"] == "no significant difference":
        difference, low, high = _texts(row, "difference", metric, "+")
        corrected = "" if row["low"] <= 0 <= row["high"] else ", corrected for the number of arms"
        return (
            f"{label} shows no significant difference in {metric} from {baseline}{corrected}: "
            f"{difference}{points} (95% interval {low} to {high})."
        )
    direction = "higher" if row["difference"] > 0 else "lower"
    if row["difference"] < 0:
        row = row.copy()
        row["difference"], row["low"], row["high"] = -row["difference"], -row["high"], -row["low"]
    difference, low, high = _texts(row, "difference", metric)
    return (
        f"{label} has a {direction} {metric} than {baseline} by {difference}{points} "
        f"(95% interval {low} to {high})."
    )


def size_in_words(row: pd.Series, paired: str = "") -> str:
    """Return the numbers of seeds and tasks of a row of `summarize`.

    >>> size_in_words(pd.Series({"n_seeds": 1, "n_tasks": 600}))
    '1 seed × 600 test tasks'
    """
    seeds, tasks = row["n_seeds"], row["n_tasks"]
    return f"{seeds} {paired}seed{'' if seeds == 1 else 's'} × {tasks} test task{'' if tasks == 1 else 's'}"


def few_seeds_in_words(summary: pd.DataFrame) -> list[str]:
    """Return a warning if there are fewer than 5 seeds.

    >>> few_seeds_in_words(pd.DataFrame({"n_seeds": [2]}))
    ['Only 2 seeds: intervals are wide and differences easily missed; run at least 5.']
    """
    n_seeds = int(summary["n_seeds"].min())
    if n_seeds >= MIN_SEEDS:
        return []
    if n_seeds == 1:
        return [f"A single seed: intervals ignore the variance of training; run at least {MIN_SEEDS}."]
    return [
        f"Only {n_seeds} seeds: intervals are wide and differences easily missed; run at least {MIN_SEEDS}."
    ]


def relations_in_words(metrics: pd.DataFrame) -> list[str]:
    """Return a sentence on the relations between tasks at the end of training for every arm that has them.

    Relations between the tasks of a batch count as flat if their standard deviation is below a tenth of their
    mean. Numbers are means over seeds.

    Args:
        metrics: rows `learner, regularizers, sampler, seed, step, split, metric, value`.

    >>> names = ["trlearner_mean", "trlearner_spread", "trlearner_row_sum", "trlearner_share"]
    >>> metrics = pd.DataFrame({"metric": names, "value": [0.97, 0.01, 6.7, 0.08]})
    >>> metrics = metrics.assign(learner="MAML", regularizers="TRLearner", sampler="Uniform", seed=0, step=9)
    >>> relations_in_words(metrics)
    ['MAML + TRLearner: relations are flat (0.970 ± 0.010 between tasks), so the term averages all other
    tasks almost equally; the term is 8% of the outer loss.']
    """
    rows = metrics[metrics["metric"].astype(str).str.startswith("trlearner_")]
    sentences = []
    for arm, group in rows.groupby(ARM, sort=False):
        values = group[group["step"] == group["step"].max()].groupby("metric")["value"].mean()
        if not all(name in values for name in NEEDED):
            continue
        mean, spread = values["trlearner_mean"], values["trlearner_spread"]
        size = f"({number(mean, 3)} ± {number(spread, 3)} between tasks)"
        if spread < MIN_SPREAD * mean:
            text = f"relations are flat {size}, so the term averages all other tasks almost equally"
        else:
            text = f"relations discriminate between tasks {size}"
        if values.get("trlearner_row_sum", 1.0) < MIN_ROW_SUM:  # weights of both signs have none
            text += "; for some task none is positive, and it averages all others equally"
        if "trlearner_agreement" in values:
            agreement = number(values["trlearner_agreement"], 2)
            text += f"; their rank correlation with known descriptors is {agreement}"
        text += f"; the term is {number(100 * values['trlearner_share'], 0)}% of the outer loss."
        sentences.append(f"{arm_label(*arm)}: {text}")
    return sentences


def divergence_in_words(metrics: pd.DataFrame) -> list[str]:
    """Return which trainings diverged, a sentence for every arm in which one did.

    Args:
        metrics: rows `learner, regularizers, sampler, seed, step, split, metric, value`.

    >>> metrics = pd.DataFrame({"seed": [1, 2], "step": [87, 211], "metric": "diverged", "value": 1.0})
    >>> divergence_in_words(metrics.assign(learner="MAML", regularizers="none", sampler="Uniform"))
    ['MAML: training diverged with seed 1 at step 87, seed 2 at step 211. The best weights validated before
    are used; without any, all test scores are nan.']
    """
    sentences = []
    for arm, rows in metrics[metrics["metric"] == "diverged"].groupby(ARM, sort=False):
        where = ", ".join(f"seed {row.seed} at step {row.step}" for row in rows.itertuples())
        sentences.append(
            f"{arm_label(*arm)}: training diverged with {where}. The best weights validated before are used; "
            "without any, all test scores are nan."
        )
    return sentences


def faults_in_words(metrics: pd.DataFrame) -> list[str]:
    """Return how many steps of training were skipped or clipped, a sentence for every arm with any.

    Args:
        metrics: rows `learner, regularizers, sampler, seed, step, split, metric, value`.

    >>> metrics = pd.DataFrame({"seed": 1, "step": [87, 90, 2000], "metric": ["skipped", "skipped", "query"]})
    >>> faults_in_words(metrics.assign(learner="MAML", regularizers="none", sampler="Uniform"))
    ['MAML: loss or gradient was not finite in 2 steps, which were skipped (seed 1: 2 of 2000, the first at
    step 87).']
    """
    sentences = []
    found = metrics[metrics["metric"].isin(FAULTS.values())]
    for (*arm, name), rows in found.groupby([*ARM, "metric"], sort=False):
        steps = metrics.loc[(metrics[ARM] == arm).all(axis=1), "step"].max()
        where = ", ".join(
            f"seed {seed}: {len(of_seed)} of {steps}, the first at step {of_seed.min()}"
            for seed, of_seed in rows.groupby("seed")["step"]
        )
        size = "1 step, which was" if len(rows) == 1 else f"{len(rows)} steps, which were"
        sentences.append(f"{arm_label(*arm)}: loss or gradient was not finite in {size} {name} ({where}).")
    return sentences


def lost_tasks_in_words(summary: pd.DataFrame) -> list[str]:
    """Return on how many test tasks adaptation diverged, a sentence for every arm and metric with any.

    Args:
        summary: from `summarize`.

    >>> rows = [("MAML", 0, 1.0), ("MAML", 1, math.inf), ("MAML", 2, 2.0)]
    >>> results = pd.DataFrame(rows, columns=["learner", "task", "value"])
    >>> from metalens.reports import summarize
    >>> results = results.assign(regularizers="none", sampler="Uniform", seed=0, metric="mse")
    >>> lost_tasks_in_words(summarize(results))
    ['MAML: adaptation diverged on 1 of 3 test tasks (33.3%), so its mean mse is ∞; the median is 2.000.']
    """
    sentences = []
    for _, row in summary[summary["diverged"] > 0].iterrows():
        metric, n = row["metric"], row["n_seeds"] * row["n_tasks"]
        mean, median = (number(METRICS[metric].scale * row[name], 3) for name in ("mean", "median"))
        sentences.append(
            f"{arm_label(*row[ARM])}: adaptation diverged on {round(row['diverged'] * n)} of {n} test tasks "
            f"({row['diverged']:.1%}), so its mean {metric} is {mean}; the median is {median}{unit(metric)}."
        )
    return sentences


def _texts(row: pd.Series, center: str, metric: str, sign: str = "-") -> list[str]:
    values = row[[center, "low", "high"]].astype(float) * METRICS[metric].scale
    digits = decimals(values[[center]], values[["high"]])
    return [number(value, digits, sign) for value in values]
