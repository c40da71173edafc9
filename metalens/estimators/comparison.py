"""Compare models on held-out tasks, and choose the one that adapts to new ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd

from metalens.data import TaskDistribution
from metalens.estimators.episodes import Episodes

MIN_DRAWS = 30  # of held-out tasks; where there are fewer, each is drawn again with other support rows
MAX_DRAWS_PER_TASK = 4


class FallbackWarning(UserWarning):
    """A baseline is better on the held-out tasks than the meta-learner."""


def mean_scores(rows: Iterable[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Return rows `model, task, metric, value`, the mean over the draws of a task.

    >>> mean_scores([("Ridge", "a", "mse", 1.0), ("Ridge", "a", "mse", 3.0)]).value.tolist()
    [2.0]
    """
    frame = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    of_task = frame.groupby(["model", "task", "metric"], sort=False)["value"]
    return of_task.mean(skipna=False).reset_index()


def choose_model(comparison: pd.DataFrame, metric: str, *, fallback: bool) -> str:
    """Return the model that adapts, and warn if the meta-learner is not the best one.

    Args:
        comparison: rows `model, task, metric, value`, the meta-learner first.
        metric: that decides by its mean; higher is better.
        fallback: whether a baseline adapts if it is better.

    >>> rows = pd.DataFrame({"model": ["ANIL", "Ridge"], "task": "a", "metric": "r2", "value": [0.5, 0.1]})
    >>> choose_model(rows, "r2", fallback=True)
    'ANIL'
    """
    of_metric = comparison[comparison.metric == metric]
    means = of_metric.groupby("model", sort=False).value.mean(skipna=False)
    meta, best = str(means.index[0]), str(means.fillna(-np.inf).idxmax())
    if best == meta:
        return meta
    found = (
        f"On {of_metric.task.nunique()} held-out tasks {meta} does not beat {best} (mean {metric} "
        f"{means[meta]:.4g} against {means[best]:.4g})"
    )
    warnings.warn(
        f"{found}, so {best} adapts; set fallback=False to use {meta} all the same."
        if fallback
        else f"{found}; set fallback=True to use {best}.",
        FallbackWarning,
        stacklevel=4,
    )
    return best if fallback else meta


def n_named(tasks: TaskDistribution) -> int:
    """Return how many tasks have a name of their own; 0 for episodes, which never end."""
    return 0 if isinstance(tasks, Episodes) else len(getattr(tasks, "task_names", ()))


def n_drawn(tasks: TaskDistribution) -> int:
    """Return how many held-out tasks are drawn: each once, or a few times if there are few."""
    n = n_named(tasks)
    return n * min(MAX_DRAWS_PER_TASK, -(-MIN_DRAWS // n)) if n else MIN_DRAWS
