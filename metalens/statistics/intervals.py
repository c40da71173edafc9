"""Confidence intervals of a mean over samples of seeds and tasks; correction for multiple comparisons."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
MIN_SEEDS = 5  # below which an interval over seeds is wide, and resampling them fails


class Estimate(NamedTuple):
    """A mean with its 95% interval, and the p-value of a mean of 0; nan if undefined."""

    mean: float
    low: float
    high: float
    p: float = math.nan


def mean_of_groups(groups: Any) -> pd.Series:
    """Return the mean of every group of a column, nan where a value is; pandas 2 would skip these.

    >>> rows = pd.DataFrame({"task": list("aab"), "value": [1.0, float("nan"), 2.0]})
    >>> mean_of_groups(rows.groupby("task")["value"]).tolist()
    [nan, 2.0]
    """
    return groups.mean().where(groups.count() == groups.size())


def by_seed_and_task(rows: pd.DataFrame) -> np.ndarray:
    """Return scores `(S, T)` whose rows and columns are independent replicates.

    - Every seed has its own test tasks (the usual case): `(S, 1)`, the mean of each seed.
    - All seeds have the same named tasks (a column `source`): `(S, T)`, a column for each; seeds and tasks
      are crossed. Several draws of one are averaged.
    - A single seed: `(1, T)`, a column for each task.

    Args:
        rows: `seed, value` and optionally `source` of one arm and metric.

    >>> rows = pd.DataFrame({"seed": [0, 0, 1, 1], "value": [1.0, 3.0, 5.0, 7.0]})
    >>> by_seed_and_task(rows).tolist(), by_seed_and_task(rows.assign(source=list("abab"))).tolist()
    ([[2.0], [6.0]], [[1.0, 3.0], [5.0, 7.0]])
    """
    n_seeds = rows["seed"].nunique()
    # nan stays nan, as leaving out the tasks that diverged would hide them.
    if "source" in rows and rows["source"].notna().all():
        table = mean_of_groups(rows.groupby(["seed", "source"], sort=False)["value"])
        n_sources = rows["source"].nunique()
        if len(table) == n_seeds * n_sources:
            return table.sort_index().to_numpy(float).reshape(n_seeds, n_sources)
    if n_seeds == 1:
        return rows["value"].to_numpy(float)[None]
    return mean_of_groups(rows.groupby("seed", sort=False)["value"]).to_numpy(float)[:, None]


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean of crossed replicates with Student's t interval.

    The variance of the mean is that of the two-way analysis of variance with random seeds and tasks,

        v = (MS_seeds + MS_tasks - MS_rest) / (S T),

    with the degrees of freedom of Satterthwaite; a term smaller than the rest is left out. With a single
    column or row this is the usual t interval over the other.

    Args:
        values: `(S, T)`, see `by_seed_and_task`.

    >>> [round(number, 2) for number in estimate(np.array([[1.0], [2.0], [3.0]]))]
    [2.0, -0.48, 4.48, 0.07]

    Source: F. E. Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", Biometrics
    Bulletin 2, 1946.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is nan, as it should be
        mean = float(values.mean())
        squares = _mean_squares(values)
    if values.size < 2 or not np.isfinite(squares).all():
        return Estimate(mean, math.nan, math.nan)
    if np.ptp(values) <= 1e-12 * abs(mean):  # equal but for rounding
        return Estimate(mean, mean, mean)
    variance, freedom = _variance(*squares, values.shape)
    error = float(np.sqrt(variance))
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return Estimate(mean, mean - reach, mean + reach, 2 * float(stats.t.sf(abs(mean) / error, freedom)))


def hierarchical_bootstrap(values: np.ndarray, *, resamples: int = 2000) -> tuple[float, float]:
    """Return the limits of the 95% interval of the mean by resampling seeds and tasks independently.

    Bootstrap-t: the quantiles of `(mean* - mean) / error*` over resamples, with the error of `estimate`,
    replace Student's; they may be skewed, as scores often are. Quantiles of the resampled means themselves
    would be far too narrow with few seeds.

    Args:
        values: `(S, T)`, see `by_seed_and_task`.
        resamples: number of resamples.

    Returns:
        The limits; nan with 2 to 4 seeds, whose resamples are often all equal, and if `estimate` has none.

    >>> low, high = hierarchical_bootstrap(np.random.default_rng(0).normal(size=(1, 100)))
    >>> bool(-0.3 < low < 0 < high < 0.3)
    True

    Source: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5; A. B. Owen,
    "The Pigeonhole Bootstrap", Annals of Applied Statistics 1, 2007, for crossed samples.
    """
    found, (n_seeds, n_tasks) = estimate(values), values.shape
    if not found.high > found.low or 1 < n_seeds < MIN_SEEDS:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    seeds, tasks = (rng.multinomial(n, np.full(n, 1 / n), resamples) for n in (n_seeds, n_tasks))
    of_seeds, of_tasks = tasks @ values.T / n_tasks, seeds @ values / n_seeds  # means of each seed, each task
    means = (seeds * of_seeds).sum(1) / n_seeds
    between = n_tasks * (seeds * (of_seeds - means[:, None]) ** 2).sum(1)
    within = n_seeds * (tasks * (of_tasks - means[:, None]) ** 2).sum(1)
    total = ((seeds @ (values - found.mean) ** 2) * tasks).sum(1)
    rest = total - n_seeds * n_tasks * (means - found.mean) ** 2 - between - within
    freedoms = np.maximum((n_seeds - 1, n_tasks - 1), 1)
    parts = between / freedoms[0], within / freedoms[1], rest / freedoms.prod()
    variance, _ = _variance(*_mean_squares(values), values.shape)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample of one seed only has no variance
        of_resamples, _ = _variance(*parts, values.shape)
        pivots = np.nan_to_num((means - found.mean) / np.sqrt(of_resamples))
    ends = np.quantile(pivots, [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2])
    low, high = found.mean - ends * np.sqrt(variance)
    return float(low), float(high)


def usual_interval(values: np.ndarray) -> tuple[float, float]:
    """Return `mean -+ 1.96 std / sqrt(n)`, which most papers report, over all tasks of all seeds.

    It is about the score of these trained models, without the variance of training.

    >>> [round(limit, 2) for limit in usual_interval(np.array([1.0, 2.0, 3.0]))]
    [0.87, 3.13]
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    with np.errstate(over="ignore"):
        reach = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - reach, float(values.mean()) + reach


def holm(p: pd.Series) -> pd.Series:
    """Return p-values corrected for multiple comparisons, which controls the family-wise error.

    With `p_(1) <= ... <= p_(m)`, the i-th becomes the largest `(m - j + 1) p_(j)` of `j <= i`, at most 1.
    Undefined ones are left out, and stay undefined.

    >>> holm(pd.Series([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]

    Source: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6, 1979.
    """
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1.0).reindex(p.index)


def _mean_squares(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the mean squares of seeds, of tasks and of the rest; 0 for a single one."""
    n_seeds, n_tasks = values.shape
    mean, of_seeds, of_tasks = values.mean(), values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = ((values - of_seeds - of_tasks + mean) ** 2).sum()
    seeds, tasks = n_tasks * ((of_seeds - mean) ** 2).sum(), n_seeds * ((of_tasks - mean) ** 2).sum()
    freedom = max(n_seeds - 1, 1), max(n_tasks - 1, 1)
    return seeds / freedom[0], tasks / freedom[1], rest / (freedom[0] * freedom[1])


def _variance(
    seeds: np.ndarray, tasks: np.ndarray, rest: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of the mean and its degrees of freedom, from mean squares."""
    of_seeds, of_tasks = (max(n - 1, 1) for n in shape)
    both, larger = seeds + tasks - rest, np.maximum(seeds, tasks)
    freedom = both**2 / (seeds**2 / of_seeds + tasks**2 / of_tasks + rest**2 / (of_seeds * of_tasks))
    alone = np.where(seeds >= tasks, of_seeds, of_tasks)
    return np.maximum(both, larger) / math.prod(shape), np.where(both < larger, alone, freedom)
