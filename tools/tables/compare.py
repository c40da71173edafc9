"""MetaLens' default against every outside method, paired over tasks."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from metalens.statistics.comparisons import paired_differences
from tools.tables.ours import DEFAULT


class Measure(NamedTuple):
    """A score by which methods are compared.

    Attributes:
        column: of the scores.
        metric: the metric of MetaLens with the same direction.
        sign: 1 if more is better, else -1.
    """

    column: str
    metric: str
    sign: int


MEASURES = {"number": Measure("skill", "r2", 1), "class": Measure("log_loss", "cross_entropy", -1)}


def by_task(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the mean over draws: a row for each task, a column for each method, of one table and k."""
    return scores.pivot_table(index="task", columns="method", values=column, aggfunc="mean", sort=False)


def comparable(of_task: pd.DataFrame) -> pd.DataFrame:
    """Return the tasks for which the default has a result, if any, and the methods that have all of these."""
    has_result = of_task[DEFAULT].notna() if DEFAULT in of_task else pd.Series(False, of_task.index)
    return (of_task[has_result] if has_result.any() else of_task).dropna(axis=1)


def is_outside(method: str) -> bool:
    """Return whether a method is neither MetaLens' default nor one of its models."""
    return not method.startswith(DEFAULT)


def leads(of_task: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return by how much the default is ahead of every outside method.

    Args:
        of_task: from `comparable`.
        measure: the score.

    Returns:
        Rows `method, lead, low, high, verdict`, the best method first. A lead is positive where the default
        is better, with its 95% interval; the verdict, ahead, level or behind, is by p-values that Holm's
        procedure corrected for the number of methods.
    """
    outside = [method for method in of_task if is_outside(str(method))]
    if DEFAULT not in of_task or not outside:
        return pd.DataFrame(columns=["method", "lead", "low", "high", "verdict"])
    rows = of_task[[DEFAULT, *outside]].melt(ignore_index=False, var_name="learner").reset_index()
    arms = {"regularizers": "none", "sampler": "Uniform", "seed": 0, "metric": measure.metric}
    found = paired_differences(rows.assign(**arms))
    ends = [-measure.sign * found[name] for name in ("low", "high")]
    verdict = {"better": "behind", "worse": "ahead"}
    table = pd.DataFrame(
        {
            "method": found["learner"],
            "lead": -measure.sign * found["difference"],
            "low": pd.concat(ends, axis=1).min(axis=1),
            "high": pd.concat(ends, axis=1).max(axis=1),
            "verdict": found["verdict"].map(lambda text: verdict.get(text, "level")),
        }
    )
    return table.sort_values("lead", kind="stable").reset_index(drop=True)
