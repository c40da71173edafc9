"""Means of arms and paired differences between them, with intervals whose replicate is the seed."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd
from scipy import stats

from metalens.errors import MetaLensError
from metalens.evaluation import HIGHER_IS_BETTER

ARM = ["learner", "regularizers"]  # the columns that name an arm
FRACTIONS = frozenset({"accuracy", "r2_above_0.3"})  # metrics that are shown in percent
CONFIDENCE = 0.95


def arm_label(learner: str, regularizers: str) -> str:
    """Return the name of an arm for people.

    >>> arm_label("MAML", "none"), arm_label("MAML", "TRLearner")
    ('MAML', 'MAML + TRLearner')
    """
    return learner if regularizers == "none" else f"{learner} + {regularizers}"


def wrapped(label: str, width: int) -> str:
    """Return a label in lines of at most a width, broken also after brackets and equals signs.

    >>> wrapped("MAML + TRLearner(relations=uniform)", 21)
    'MAML + TRLearner(\\nrelations=uniform)'
    """
    breakable = label.replace("(", "(\0 ").replace("=", "=\0 ")
    return "\n".join(textwrap.wrap(breakable, width)).replace("\0 ", "").replace("\0", "")


def by_domain(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the scores of a run by domain: first of those that training had and had not, then of each.

    Args:
        results: rows `split, domain, ...`, one per test task; the split is `test` or `test_unseen`.

    Returns:
        Rows by title; none where the results name no domains.

    >>> results = pd.DataFrame({"split": ["test", "test_unseen"], "domain": ["photo", "sketch"]})
    >>> list(by_domain(results))
    ['domains of training', 'unseen domains', 'photo', 'sketch (unseen)']
    """
    if "domain" not in results:
        return {}
    is_unseen = results["split"] == "test_unseen"
    parts = {}
    if 0 < is_unseen.sum() < len(results):
        parts = {"domains of training": results[~is_unseen], "unseen domains": results[is_unseen]}
    for domain, rows in results.groupby("domain", sort=False):
        parts[f"{domain} (unseen)" if is_unseen[rows.index[0]] else str(domain)] = rows
    return parts


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score of every arm with its 95% interval.

    The replicate is the seed: with per-seed means `z_1 ... z_S` over test tasks, the interval is

        mean(z) -+ t_{0.975, S-1} std(z) / sqrt(S)

    With a single seed the tasks are the replicates, and the interval is about this one trained model.

    Args:
        results: rows `learner, regularizers, seed, task, metric, value`, one per test task.

    Returns:
        One row per arm and metric, in order of appearance: `learner, regularizers, metric, mean, low, high,
        median, n_seeds, n_tasks, diverged`. `n_tasks` is per seed; `diverged` is the share of tasks whose
        value is not finite. Such tasks are never left out: they make the mean infinite or nan and the
        interval nan, and count as the worst in the median over all seeds and tasks.

    >>> results = pd.DataFrame({"learner": "MAML", "regularizers": "none", "seed": [0, 0, 1, 1],
    ...                         "task": [0, 1, 0, 1], "metric": "mse", "value": [1.0, 3.0, 3.0, 5.0]})
    >>> summarize(results)[["mean", "low", "high"]].round(2).values.tolist()
    [[3.0, -9.71, 15.71]]
    """
    rows = []
    for (learner, regularizers, metric), group in results.groupby([*ARM, "metric"], sort=False):
        replicates = _replicates(group["seed"], group["value"])
        low, high, _ = _t_test(replicates)
        n_seeds = group["seed"].nunique()
        worst = -math.inf if metric in HIGHER_IS_BETTER else math.inf
        rows.append(
            {
                "learner": learner,
                "regularizers": regularizers,
                "metric": metric,
                "mean": _mean(replicates),
                "low": low,
                "high": high,
                "median": group["value"].fillna(worst).median(),
                "n_seeds": n_seeds,
                "n_tasks": len(group) // n_seeds,
                "diverged": float((~np.isfinite(group["value"])).mean()),
            }
        )
    return pd.DataFrame(rows)


def paired_differences(results: pd.DataFrame, baseline: tuple[str, str] | None = None) -> pd.DataFrame:
    """Return how every other arm differs from the baseline on the same test tasks.

    With `d_s` the mean over the tasks of seed s of (arm's value - baseline's value), the interval is

        mean(d) -+ t_{0.975, S-1} std(d) / sqrt(S)

    and p is that of the paired t-test. With a single seed the tasks are the replicates.

    Args:
        results: rows `learner, regularizers, seed, task, metric, value`, one per test task.
        baseline: `(learner, regularizers)` of the arm to compare with; by default the first one.

    Returns:
        One row per other arm and metric: `learner, regularizers, baseline, metric, difference, low, high, p,
        relative, n_seeds, n_tasks, verdict`. `baseline` is its label; `relative` is the difference divided
        by the size of the baseline's mean; `n_tasks` is per seed. The verdict is `"better"`, `"worse"` or
        `"no significant difference"` as the interval excludes 0 or not, and `"undefined"` where there is
        no interval: tasks diverged, or there is a single replicate. Without variance p is nan.

    Raises:
        MetaLensError: the baseline is not among the arms, or two arms were scored on different tasks.

    >>> rows = [("MAML", 0, 1.0), ("MAML", 1, 2.0), ("ANIL", 0, 0.9), ("ANIL", 1, 1.9)]
    >>> results = pd.DataFrame(rows, columns=["learner", "seed", "value"])
    >>> results = results.assign(regularizers="none", task=0, metric="mse")
    >>> paired_differences(results)[["difference", "verdict"]].round(3).values.tolist()
    [[-0.1, 'better']]
    """
    scores = {
        arm: {metric: _by_task(rows) for metric, rows in group.groupby("metric", sort=False)}
        for arm, group in results.groupby(ARM, sort=False)
    }
    reference_arm = next(iter(scores)) if baseline is None else baseline
    if reference_arm not in scores:
        arms = ", ".join(arm_label(*arm) for arm in scores)
        raise MetaLensError(
            f"The baseline must be an arm of the results ({arms}), got {arm_label(*reference_arm)}."
        )
    rows = []
    for arm, metrics in scores.items():
        if arm == reference_arm:
            continue
        if set(metrics) != set(scores[reference_arm]):
            raise MetaLensError(
                f"The arms {arm_label(*arm)} and {arm_label(*reference_arm)} must have the same metrics, got "
                f"{', '.join(metrics)} and {', '.join(scores[reference_arm])}; run both again."
            )
        for metric, reference in scores[reference_arm].items():
            _check_same_tasks(arm, metrics[metric], reference_arm, reference, metric)
            with np.errstate(invalid="ignore"):  # inf - inf: both diverged, and the difference is nan
                changes = metrics[metric].reindex(reference.index) - reference
            seeds = reference.index.get_level_values("seed").to_series()
            replicates = _replicates(seeds, changes)
            low, high, p = _t_test(replicates)
            difference, level = _mean(replicates), abs(_mean(_replicates(seeds, reference)))
            rows.append(
                {
                    "learner": arm[0],
                    "regularizers": arm[1],
                    "baseline": arm_label(*reference_arm),
                    "metric": metric,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "p": p,
                    "relative": difference / level if level > 0 else math.nan,
                    "n_seeds": seeds.nunique(),
                    "n_tasks": len(seeds) // seeds.nunique(),
                    "verdict": _verdict(low, high, metric),
                }
            )
    columns = [*ARM, "baseline", "metric", "difference", "low", "high", "p", "relative", "n_seeds", "n_tasks"]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])


def _by_task(rows: pd.DataFrame) -> pd.Series:
    return rows.set_index(["seed", "task"])["value"]


def _check_same_tasks(
    arm: tuple[str, str], values: pd.Series, baseline: tuple[str, str], others: pd.Series, metric: str
) -> None:
    for label, series in ((arm_label(*arm), values), (arm_label(*baseline), others)):
        twice = series.index[series.index.duplicated()]
        if len(twice):
            raise MetaLensError(
                f"The results of {label} must have one {metric} per task, got several for seed "
                f"{twice[0][0]}, task {twice[0][1]}; run it again."
            )
    unpaired = values.index.symmetric_difference(others.index)
    if len(unpaired):
        raise MetaLensError(
            f"The arms {arm_label(*arm)} and {arm_label(*baseline)} must be scored on the same tasks, but "
            f"{len(unpaired)} have a {metric} for only one of them (first: seed {unpaired[0][0]}, task "
            f"{unpaired[0][1]}); run both with the same seeds and number of test tasks."
        )


def _replicates(seeds: pd.Series, values: pd.Series) -> np.ndarray:
    """Return the mean of every seed `(S,)`, or the tasks' values themselves if there is only one seed."""
    if seeds.nunique() == 1:
        return values.to_numpy(float)
    # skipna=False, as leaving out the tasks that diverged would hide them.
    return values.groupby(seeds.to_numpy()).mean(skipna=False).to_numpy(float)


def _mean(replicates: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf is nan, as it should be
        return float(replicates.mean())


def _t_test(replicates: np.ndarray) -> tuple[float, float, float]:
    """Return the limits of the mean's interval and the p-value of a mean of 0; nan where undefined."""
    if len(replicates) < 2 or not np.isfinite(replicates).all():
        return math.nan, math.nan, math.nan
    mean = _mean(replicates)
    if np.ptp(replicates) <= 1e-12 * abs(mean):  # equal but for rounding, where SciPy returns nan or warns
        return mean, mean, math.nan
    test = stats.ttest_1samp(replicates, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return float(low), float(high), float(test.pvalue)


def _verdict(low: float, high: float, metric: str) -> str:
    if math.isnan(low):
        return "undefined"
    if low <= 0 <= high:
        return "no significant difference"
    return "better" if (low > 0) == (metric in HIGHER_IS_BETTER) else "worse"
