"""From tidy rows to intervals: every point of a study's figure, and its paired difference to a reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from metalens.errors import MetaLensError
from metalens.metrics import METRICS, Metric, primary_metric
from metalens.statistics.comparisons import paired_differences, summarize
from metalens.statistics.intervals import CONFIDENCE, estimate, holm

for name in ("spread", "disagreement", "excess risk", "training seconds"):
    METRICS[name] = Metric(name, None, "lower")

POINT = ["panel", "series", "setting"]  # the columns that name a point


def compare(results: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the mean of every point with its interval, and its paired difference to the reference series.

    A point is compared with the reference's point at the same setting of the same panel, or with its only
    point there. The replicate is the seed; see `summarize` and `paired_differences`.

    Args:
        results: rows `panel, series, setting, seed, task, metric, value`.
        reference: the series that the others are compared with.

    Returns:
        One row per point and metric: `panel, series, setting, metric, mean, low, high, median, difference,
        difference_low, difference_high, relative, p, verdict, n_seeds, n_tasks, diverged`. Points of the
        reference have no difference.

    Raises:
        MetaLensError: a point has nothing to be compared with, or was scored on other tasks.

    >>> rows = [("none", 0, 1.0), ("none", 1, 2.0), ("term", 0, 0.9), ("term", 1, 1.9)]
    >>> results = pd.DataFrame(rows, columns=["series", "seed", "value"])
    >>> results = results.assign(panel="weight", setting=0.1, task=0, metric="mse")
    >>> compare(results, "none")[["series", "difference"]].round(3).values.tolist()
    [['none', nan], ['term', -0.1]]
    """
    rows = []
    for (panel, _), part in results.groupby(["panel", "metric"], sort=False):
        basis = part[part["series"] == reference]
        for (series, setting), point in part.groupby(["series", "setting"], sort=False):
            name = {"panel": panel, "series": series, "setting": setting}
            mean = summarize(point.assign(**as_arms("point"))).iloc[0]
            row = {**name, **mean[["metric", "mean", "low", "high", "median"]].to_dict()}
            if series != reference:
                same = basis[basis["setting"] == setting]
                base = basis if same.empty else same
                if base["setting"].nunique() != 1:
                    raise MetaLensError(f"{series} at {setting} has nothing to be compared with in {panel}.")
                both = pd.concat([base.assign(**as_arms("base")), point.assign(**as_arms("point"))])
                pair = paired_differences(both).iloc[0]
                row |= pair[["difference", "relative", "p", "verdict"]].to_dict()
                row |= {"difference_low": pair["low"], "difference_high": pair["high"]}
            rows.append({**row, **mean[["n_seeds", "n_tasks", "diverged"]].to_dict()})
    scores = ["metric", "mean", "low", "high", "median"]
    changes = ["difference", "difference_low", "difference_high", "relative", "p", "verdict"]
    return pd.DataFrame(rows, columns=[*POINT, *scores, *changes, "n_seeds", "n_tasks", "diverged"])


def primary(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first metric.

    >>> primary(pd.DataFrame({"metric": ["accuracy", "cross_entropy", "accuracy"]})).index.tolist()
    [0, 2]
    """
    return summary[summary["metric"] == primary_metric(summary["metric"])]


def significant(rows: pd.DataFrame, verdict: str) -> pd.DataFrame:
    """Return the rows with a verdict that survives Holm's correction for the number of rows.

    Args:
        rows: of `compare`, each with a difference.
        verdict: `"better"` or `"worse"`.

    >>> rows = pd.DataFrame({"p": [0.02, 0.03, 0.03], "verdict": ["better", "better", "worse"]})
    >>> significant(rows[:2], "better").p.tolist(), significant(rows, "better").p.tolist()
    ([0.02, 0.03], [])
    """
    return rows[(rows["verdict"] == verdict) & (holm(rows["p"]) < 1 - CONFIDENCE)]


def in_words(row: pd.Series) -> str:
    """Return a paired difference in words, with its interval.

    >>> row = {"metric": "mse", "difference": -0.1234, "difference_low": -0.2, "difference_high": -0.05}
    >>> in_words(pd.Series(row))
    'mse lower by 0.123 (95% interval 0.050 to 0.200)'
    """
    scale, unit = (100, " points") if METRICS[row["metric"]].unit == "fraction" else (1, "")
    values = [row[name] * scale for name in ("difference", "difference_low", "difference_high")]
    if not all(map(math.isfinite, values)):
        return f"{row['metric']} without a finite difference"
    if not any(values):
        return f"{row['metric']} exactly the same"
    word = "higher" if values[0] > 0 else "lower"
    if values[0] <= 0:
        values = [-values[0], -values[2], -values[1]]
    digits = width_decimals(values[2] - values[1])
    center, low, high = (f"{value:.{digits}f}".replace("-", "−") for value in values)
    return f"{row['metric']} {word} by {center}{unit} (95% interval {low} to {high})"


def width_decimals(width: float) -> int:
    """Return the decimals that show two to three digits of an interval's width.

    >>> width_decimals(0.15), width_decimals(12.0), width_decimals(0.0)
    (3, 1, 3)
    """
    return 3 if width <= 0 else min(max(2 - math.floor(math.log10(width)), 0), 9)


def outcome(rows: pd.DataFrame, what: str, reference: str, setting: str = "") -> str:
    """Return in one sentence how many points differ from the reference, and the clearest difference.

    Args:
        rows: of `compare`, each with a difference.
        what: the points in words, such as `"weights of TRLearner"`.
        reference: what they are compared with.
        setting: what the setting is called, to be followed by its value; by default the series is named.
    """
    better, worse = (len(significant(rows, verdict)) for verdict in ("better", "worse"))
    finite = rows[np.isfinite(rows["difference_low"])]
    count = f"{better} of {len(rows)} {what} are better than {reference} and {worse} worse"
    count += ", corrected for their number" if len(rows) > 1 else ""
    if finite.empty:
        return f"{count}; no difference has an interval."
    width = finite["difference_high"] - finite["difference_low"]
    clearest = finite.loc[(finite["difference"].abs() / width.clip(lower=1e-12)).idxmax()]
    value = clearest["setting"]
    place = (
        f"{setting} {value if isinstance(value, str) else f'{value:g}'}" if setting else clearest["series"]
    )
    return f"{count}; the clearest difference is that of {place}: {in_words(clearest)}."


def any_gain(rows: pd.DataFrame) -> bool | None:
    """Return whether some points are better than their references: `False` if all are worse, `None` if open.

    >>> any_gain(pd.DataFrame({"p": [0.5], "verdict": ["no significant difference"]})) is None
    True
    """
    if len(significant(rows, "better")):
        return True
    return False if len(significant(rows, "worse")) == len(rows) else None


def every_gain(rows: pd.DataFrame) -> bool | None:
    """Return whether all points are better than their references: `False` if one is worse, `None` if open.

    >>> every_gain(pd.DataFrame({"p": [0.001], "verdict": ["better"]}))
    True
    """
    if len(significant(rows, "worse")):
        return False
    return True if len(significant(rows, "better")) == len(rows) else None


def agreement(claim: str, holds: bool | None) -> str:
    """Return whether what was found agrees with what the paper shows.

    Args:
        claim: a clause.
        holds: `None` if the intervals leave it open.

    >>> agreement("more is better", True)
    'This agrees with the paper, which shows that more is better.'
    """
    if holds is None:
        return f"The paper shows that {claim}; these intervals neither confirm nor refute it."
    if holds:
        return f"This agrees with the paper, which shows that {claim}."
    return f"This does not agree with the paper, which shows that {claim}."


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of independent values with the limits of its 95% Student t interval.

    >>> [round(number, 2) for number in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.48, 4.48]
    """
    return estimate(values[None])[:3]


def is_lower_better(metric: str) -> bool:
    """Return whether smaller values of a metric are better.

    >>> is_lower_better("mse"), is_lower_better("accuracy")
    (True, False)
    """
    return METRICS[metric].better == "lower"


def as_arms(names: Any) -> dict[str, Any]:
    """Return the columns that name arms to the statistics and figures of runs: a name, and nothing else.

    Args:
        names: one text, or one for each row.
    """
    return {"learner": names, "regularizers": "none", "sampler": "Uniform"}
