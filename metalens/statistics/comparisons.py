"""Means of arms and paired differences between them, over seeds and tasks."""

import math
import textwrap

import numpy as np
import pandas as pd
from scipy import stats

from metalens.errors import MetaLensError
from metalens.metrics import METRICS
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.intervals import (
    CONFIDENCE,
    by_seed_and_task,
    estimate,
    hierarchical_bootstrap,
    holm,
    usual_interval,
)

DIFFERENCE = [
    *ARM, "baseline", "metric", "difference", "low", "high", "p", "p_holm", "p_wilcoxon", "effect", "wins",
    "relative", "n_seeds", "n_tasks", "verdict",
]  # fmt: skip


def wrapped(label: str, width: int) -> str:
    """Wrap a label to a width, also after brackets and equals signs.

    >>> wrapped("MAML + TRLearner(relation=Uniform)", 21)
    'MAML + TRLearner(\\nrelation=Uniform)'
    """
    breakable = label.replace("(", "(\0 ").replace("=", "=\0 ")
    return "\n".join(textwrap.wrap(breakable, width)).replace("\0 ", "").replace("\0", "")


def by_domain(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the scores of a run by domain: of all domains in training, of all unseen ones, and of each.

    Args:
        results: rows `split, domain, ...`, one per test task; the split is `test` or `test_unseen`.

    Returns:
        Rows by title; empty without a column `domain`.

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
    """Return the mean score of every arm with its 95% interval over random seeds and tasks.

    If every seed has its own test tasks, its mean `z_s` over them is the replicate, and the interval is

        mean(z) -+ t_{0.975, S-1} std(z) / sqrt(S)

    If all seeds are tested on the same named tasks, seeds and tasks are crossed; see `estimate`. With a
    single seed the tasks are the replicates, and the interval is about this one trained model.

    Args:
        results: rows `learner, regularizers, sampler, seed, task, metric, value`, one per test task; with a
            column `source` if tasks are drawn from named ones.

    Returns:
        One row per arm and metric, in order of appearance: `learner, regularizers, sampler, metric, mean,
        low, high, median, rank, n_seeds, n_tasks, diverged`. `rank` is the mean rank among the arms on the
        same task, 1 for the best; `n_tasks` is per seed; `diverged` is the share of tasks whose value is not
        finite. Such tasks are never left out: they make the mean infinite or nan and the interval nan, and
        count as the worst in the median over all seeds and tasks and in the ranks.

    >>> results = pd.DataFrame({"learner": "MAML", "regularizers": "none", "sampler": "Uniform",
    ...                         "seed": [0, 0, 1, 1], "task": [0, 1, 0, 1],
    ...                         "metric": "mse", "value": [1.0, 3.0, 3.0, 5.0]})
    >>> summarize(results)[["mean", "low", "high"]].round(2).values.tolist()
    [[3.0, -9.71, 15.71]]
    """
    results = results.reset_index(drop=True)
    ranks = _losses(results).groupby([results[key] for key in ("metric", "seed", "task")]).rank()
    rows = []
    for (*arm, metric), group in results.groupby([*ARM, "metric"], sort=False):
        mean, low, high, _ = estimate(by_seed_and_task(group))
        n_seeds = group["seed"].nunique()
        worst = -math.inf if METRICS[metric].better == "higher" else math.inf
        median, rank = group["value"].fillna(worst).median(), ranks[group.index].mean()
        diverged = float((~np.isfinite(group["value"])).mean())
        numbers = mean, low, high, median, rank, n_seeds, len(group) // n_seeds, diverged
        rows.append((*arm, metric, *numbers))
    names = ["mean", "low", "high", "median", "rank", "n_seeds", "n_tasks", "diverged"]
    return pd.DataFrame(rows, columns=[*ARM, "metric", *names])


def intervals_compared(results: pd.DataFrame) -> pd.DataFrame:
    """Return the interval of `summarize` for every arm beside two others.

    Args:
        results: see `summarize`.

    Returns:
        One row per arm and metric: `learner, regularizers, sampler, metric, mean, low, high, boot_low,
        boot_high, usual_low, usual_high`; see `hierarchical_bootstrap` and `usual_interval`.

    >>> rows = [("MAML", "none", "Uniform", s, t, "mse", 1.0 + 2 * s + 2 * t) for s in (0, 1) for t in (0, 1)]
    >>> results = pd.DataFrame(rows, columns=[*ARM, "seed", "task", "metric", "value"])
    >>> intervals_compared(results)[["low", "boot_low", "usual_low"]].round(2).values.tolist()
    [[-9.71, nan, 1.4]]
    """
    names = ["mean", "low", "high", "boot_low", "boot_high", "usual_low", "usual_high"]
    rows = []
    for (*arm, metric), group in results.groupby([*ARM, "metric"], sort=False):
        values = by_seed_and_task(group)
        numbers = *estimate(values)[:3], *hierarchical_bootstrap(values), *usual_interval(group["value"])
        rows.append((*arm, metric, *numbers))
    return pd.DataFrame(rows, columns=[*ARM, "metric", *names])


def paired_differences(results: pd.DataFrame, baseline: tuple[str, str, str] | None = None) -> pd.DataFrame:
    """Return the differences of every other arm to the baseline on the same test tasks.

    With `d` the differences on tasks, arm's value - baseline's value, interval and p are those of the mean of
    `d`, as in `summarize`: if every seed has its own test tasks, those of the paired t-test over the means of
    seeds. The verdict follows from p after Holm's correction for the number of arms.

    Args:
        results: see `summarize`.
        baseline: `(learner, regularizers, sampler)` of an arm; by default the first one.

    Returns:
        One row per other arm and metric: `learner, regularizers, sampler, baseline, metric, difference, low,
        high, p, p_holm, p_wilcoxon, effect, wins, relative, n_seeds, n_tasks, verdict`. `p_wilcoxon` is of
        the signed-rank test over all tasks and `effect` Cohen's d, `mean(d) / std(d)` over them: both are
        about these trained models only. `wins` is the share of tasks on which the arm is better, ties counted
        half; `relative` the difference divided by the size of the baseline's mean; `n_tasks` is per seed. The
        verdict is `"better"`, `"worse"`, `"no significant difference"`, or `"undefined"` without an interval:
        tasks diverged, or there is a single replicate. Without variance p is nan; the difference decides.

    Raises:
        MetaLensError: the baseline is not among the arms, or two arms were scored on different tasks.

    >>> rows = [("MAML", 0, 1.0), ("MAML", 1, 2.0), ("ANIL", 0, 0.9), ("ANIL", 1, 1.9)]
    >>> results = pd.DataFrame(rows, columns=["learner", "seed", "value"])
    >>> results = results.assign(regularizers="none", sampler="Uniform", task=0, metric="mse")
    >>> paired_differences(results)[["difference", "wins", "verdict"]].round(3).values.tolist()
    [[-0.1, 1.0, 'better']]
    """
    scores = {
        arm: {metric: _by_task(rows) for metric, rows in group.groupby("metric", sort=False)}
        for arm, group in results.groupby(ARM, sort=False)
    }
    reference_arm = next(iter(scores)) if baseline is None else baseline
    label = arm_label(*reference_arm)
    if reference_arm not in scores:
        arms = ", ".join(arm_label(*arm) for arm in scores)
        raise MetaLensError(f"The baseline must be an arm of the results ({arms}), got {label}.")
    references = scores.pop(reference_arm)
    rows = []
    for arm, metrics in scores.items():
        if set(metrics) != set(references):
            raise MetaLensError(
                f"The arms {arm_label(*arm)} and {label} must have the same metrics, got "
                f"{', '.join(metrics)} and {', '.join(references)}; run both again."
            )
        for metric, reference in references.items():
            _check_same_tasks(arm_label(*arm), metrics[metric], label, reference, metric)
            n_seeds = reference.index.get_level_values("seed").nunique()
            rows.append(
                dict(zip(ARM, arm, strict=True))
                | {"baseline": label, "metric": metric, "n_seeds": n_seeds}
                | {"n_tasks": len(reference) // n_seeds}
                | _difference(metrics[metric].reindex(reference.index), reference, metric)
            )
    if not rows:
        return pd.DataFrame(columns=DIFFERENCE)
    paired = pd.DataFrame(rows)
    paired["p_holm"] = paired.groupby("metric", sort=False)["p"].transform(holm)
    paired["verdict"] = [_verdict(row) for _, row in paired.iterrows()]
    return paired[DIFFERENCE]


def worst_tasks(results: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """Return the tasks on which each arm is worst, and those on which it is most behind the baseline.

    Args:
        results: see `summarize`; of one metric. The first arm is the baseline.
        n: number of tasks of each kind.

    Returns:
        Rows `learner, regularizers, sampler, kind, seed, task, value, change`, the worst first. The kind is
        `"worst"` or, for other arms than the baseline and tasks on which they are behind, `"behind"`; `task`
        is the source, if any, and `change` the arm's value minus the baseline's.

    >>> rows = [("MAML", 0, 1.0), ("MAML", 1, 2.0), ("ANIL", 0, 1.5), ("ANIL", 1, 1.9)]
    >>> results = pd.DataFrame(rows, columns=["learner", "task", "value"])
    >>> results = results.assign(regularizers="none", sampler="Uniform", seed=0, metric="mse")
    >>> worst_tasks(results, 1)[["learner", "kind", "task", "value"]].values.tolist()
    [['MAML', 'worst', 1, 2.0], ['ANIL', 'worst', 1, 1.9], ['ANIL', 'behind', 0, 1.5]]
    """
    indexed = results.assign(loss=_losses(results)).set_index(["seed", "task"])
    arms = [own for _, own in indexed.groupby(ARM, sort=False)]
    frames = []
    for own in arms:
        with np.errstate(invalid="ignore"):  # inf - inf: both diverged
            change, behind = (own[name] - arms[0][name] for name in ("value", "loss"))
        rows = own.assign(change=change, behind=behind)
        worst = rows.sort_values("loss", ascending=False, kind="stable")
        most = rows[behind > 0].sort_values("behind", ascending=False, kind="stable")
        frames += [worst.head(n).assign(kind="worst"), most.head(n).assign(kind="behind")]
    found = pd.concat(frames).reset_index()
    if "source" in found:
        found["task"] = found["source"].fillna(found["task"])
    return found[[*ARM, "kind", "seed", "task", "value", "change"]]


def _difference(own: pd.DataFrame, reference: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return the statistics of one paired difference; both have the same index of seed and task."""
    with np.errstate(invalid="ignore"):  # inf - inf: both diverged, and the difference is nan
        changes = own["value"] - reference["value"]
    difference, low, high, p = estimate(by_seed_and_task(reference.assign(value=changes).reset_index()))
    level = abs(estimate(by_seed_and_task(reference.reset_index())).mean)
    is_finite = bool(np.isfinite(changes).all())
    with np.errstate(over="ignore"):
        spread = float(changes.std()) if is_finite else math.nan
    gains = _losses(reference.assign(metric=metric)) - _losses(own.assign(metric=metric))
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "p_wilcoxon": float(stats.wilcoxon(changes).pvalue) if is_finite and changes.any() else math.nan,
        "effect": float(changes.mean()) / spread if 0 < spread < math.inf else math.nan,
        "wins": float((np.sign(gains.fillna(0)) / 2 + 0.5).mean()),
        "relative": difference / level if level > 0 else math.nan,
    }


def _by_task(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.set_index(["seed", "task"])[[name for name in ("value", "source") if name in rows]]


def _losses(results: pd.DataFrame) -> pd.Series:
    """Return values of which smaller is better, infinite for those that diverged."""
    sign = np.where([METRICS[metric].better == "higher" for metric in results["metric"]], -1.0, 1.0)
    return (sign * results["value"]).fillna(math.inf)


def _check_same_tasks(
    arm: str, values: pd.DataFrame, baseline: str, others: pd.DataFrame, metric: str
) -> None:
    for label, table in ((arm, values), (baseline, others)):
        twice = table.index[table.index.duplicated()]
        if len(twice):
            raise MetaLensError(
                f"The results of {label} must have one {metric} per task, got several for seed "
                f"{twice[0][0]}, task {twice[0][1]}; run it again."
            )
    unpaired = values.index.symmetric_difference(others.index)
    if len(unpaired):
        raise MetaLensError(
            f"The arms {arm} and {baseline} must be scored on the same tasks, but {len(unpaired)} have a "
            f"{metric} for only one of them (first: seed {unpaired[0][0]}, task {unpaired[0][1]}); run both "
            "with the same seeds and number of test tasks."
        )


def _verdict(row: pd.Series) -> str:
    if math.isnan(row["low"]):
        return "undefined"
    is_none = row["low"] <= 0 <= row["high"] if math.isnan(row["p"]) else row["p_holm"] >= 1 - CONFIDENCE
    if is_none:
        return "no significant difference"
    return "better" if (row["difference"] > 0) == (METRICS[row["metric"]].better == "higher") else "worse"
