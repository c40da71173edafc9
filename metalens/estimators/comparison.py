"""Comparison of models on held-out tasks, and choice of the one for new tasks."""

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd

from metalens.data import TaskDistribution
from metalens.estimators.episodes import Episodes

MIN_DRAWS = 30  # of held-out tasks; fewer ones are drawn repeatedly, with other support rows
MAX_DRAWS_PER_TASK = 4


class FallbackWarning(UserWarning):
    """A baseline beats the meta-learner on the held-out tasks."""


def mean_scores(rows: Iterable[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Return rows `model, task, metric, value`, the mean over the draws of a task.

    >>> mean_scores([("Ridge", "a", "mse", 1.0), ("Ridge", "a", "mse", 3.0)]).value.tolist()
    [2.0]
    """
    frame = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    of_task = frame.groupby(["model", "task", "metric"], sort=False)["value"]
    return of_task.mean(skipna=False).reset_index()


def choose_model(comparison: pd.DataFrame, metric: str, *, fallback: bool) -> str:
    """Return the model for new tasks, and warn if the meta-learner is not the best one.

    Args:
        comparison: rows `model, task, metric, value`, the meta-learner first.
        metric: whose mean decides; higher is better.
        fallback: whether to use a baseline if it is better.

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
    used = f", so {best} adapts; set fallback=False to use {meta} all the same."
    warnings.warn(
        found + (used if fallback else f"; set fallback=True to use {best}."), FallbackWarning, stacklevel=4
    )
    return best if fallback else meta


def n_named(tasks: TaskDistribution) -> int:
    """Return the number of named tasks; 0 for episodes, which are unlimited."""
    return 0 if isinstance(tasks, Episodes) else len(getattr(tasks, "task_names", ()))


def n_drawn(tasks: TaskDistribution) -> int:
    """Return the number of draws of held-out tasks: one of each, or up to four if there are few."""
    n = n_named(tasks)
    return n * min(MAX_DRAWS_PER_TASK, -(-MIN_DRAWS // n)) if n else MIN_DRAWS
