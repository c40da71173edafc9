"""Scores of a learner on held-out tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.batching import Batching, Chunk, check_chunk
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.learners.base import module_mode
from metalens.learners.labels import check_labels
from metalens.metrics import METRICS, task_metrics
from metalens.processes import ALONE, Processes
from metalens.tasks import place

if TYPE_CHECKING:
    import pandas as pd

MAX_CHUNK = 50  # tasks at a time


def evaluate(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    batching: Batching = "auto",
    chunk: Chunk = None,
    processes: Processes = ALONE,
) -> pd.DataFrame:
    """Adapt to each of `n_tasks` tasks separately, and score the adapted models on their queries.

    Args:
        learner: a trained learner, in evaluation mode for the time.
        tasks: the distribution of held-out tasks.
        n_tasks: number of tasks, `0 ... n_tasks - 1`.
        batching: how the learner is mapped over tasks.
        chunk: tasks that are computed at a time, at most 50. It changes memory, not scores.
        processes: those that share the chunks, and all get all rows; by default this one alone.

    Returns:
        Rows `task, metric, value`. Classification has the metrics `accuracy` (fraction, the primary one)
        and `cross_entropy` (nats); regression has `mse` (in squared units of y, the primary one), and the
        distribution's `extra_metrics`: `pearson_r2` (squared correlation), `pearson_r2_above_0.3` (1 if it
        is above 0.3, so that the mean is a share of tasks), both of three queries or more, and `rmse` (in
        units of y). The distribution's `extra_scores` follow. If adaptation to a task diverged, its value is
        not finite.

    Raises:
        MetaLensError: `n_tasks` or `chunk` is less than 1.

    >>> from metalens import MAML, Sinusoid, evaluate, mlp
    >>> evaluate(MAML(mlp()), Sinusoid("test"), n_tasks=3).task.tolist()
    [0, 1, 2]
    """
    if n_tasks < 1:
        raise MetaLensError(f"n_tasks must be at least 1, got {n_tasks}.")
    check_chunk(chunk)
    import pandas as pd  # slow to import

    at_a_time = min(chunk, MAX_CHUNK) if isinstance(chunk, int) else MAX_CHUNK
    if not tasks.equal_sizes:
        at_a_time = 1
    frames = []
    with module_mode(learner, training=False), torch.no_grad():
        for start in processes.scatter(range(0, n_tasks, at_a_time)):
            numbers = range(start, min(start + at_a_time, n_tasks))
            drawn = tasks.batch(numbers)
            check_labels(learner, drawn, numbers)
            batch = place(drawn, learner.device, learner.dtype)
            predictions = AdaptedTasks(learner, batch, batching).query_predictions
            fine = torch.promote_types(learner.dtype, torch.float32)
            y, known = place((batch.query.y, batch.support.y), learner.device, fine)
            metrics = _all_metrics(tasks, numbers, predictions.to(fine), y, known)
            tables = [
                pd.DataFrame({"task": numbers, "metric": metric, "value": values.tolist()})
                for metric, values in metrics.items()
            ]
            frames.append(pd.concat(tables))
    return pd.concat(processes.gather_objects(frames), ignore_index=True)


def undefined_scores(tasks: TaskDistribution, *, n_tasks: int = 600) -> pd.DataFrame:
    """Return the rows of `evaluate` for a learner whose training diverged: all values are nan.

    >>> from metalens import Sinusoid
    >>> undefined_scores(Sinusoid("test"), n_tasks=1).values.tolist()
    [[0, 'mse', nan]]
    """
    import pandas as pd

    batch = tasks.batch([0])
    y = batch.query.y
    n_outputs = y.shape[-1] if y.is_floating_point() else int(y.max()) + 1
    predictions = torch.full((*y.shape[:2], n_outputs), torch.nan)
    metrics = _all_metrics(tasks, [0], predictions, y, batch.support.y)
    rows = [(task, metric, math.nan) for metric in metrics for task in range(n_tasks)]
    return pd.DataFrame(rows, columns=["task", "metric", "value"])


def _all_metrics(
    tasks: TaskDistribution, numbers: Sequence[int], predictions: Tensor, y: Tensor, known: Tensor
) -> dict[str, Tensor]:
    further = tasks.extra_metrics if y.is_floating_point() else ()  # they are of numbers
    usual = task_metrics(predictions, y, known, further)
    scores = tasks.extra_scores(numbers, predictions, y)
    return usual | {METRICS[name].name: of_tasks for name, of_tasks in scores.items()}


def mean_scores(rows: pd.DataFrame) -> dict[str, float]:
    """Return the mean of every metric over the rows of `evaluate`.

    If a score is not finite, the mean is not finite either.

    >>> import pandas as pd
    >>> mean_scores(pd.DataFrame({"task": [0, 1], "metric": "mse", "value": [1.0, 2.0]}))
    {'mse': 1.5}
    """
    of_metrics = rows.groupby("metric", sort=False)["value"]
    # skipna=False, as skipping the tasks that diverged would hide them.
    return {str(metric): float(values.mean(skipna=False)) for metric, values in of_metrics}


@dataclass(frozen=True)
class Validation:
    """Held-out tasks that decide which weights are kept.

    Attributes:
        tasks: the distribution to validate on.
        n_tasks: number of its first tasks to use.
        every: steps between two validations.
        patience: validations without a new best score after which training ends; `None` for all steps.
    """

    tasks: TaskDistribution
    n_tasks: int = 200
    every: int = 500
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_tasks", "every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MetaLensError(f"Validation needs {name} of at least 1, got {value}.")
