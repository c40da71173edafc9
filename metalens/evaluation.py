"""Scores of a learner on held-out tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.batching import Batching, Chunk, check_chunk
from metalens.data import TaskDistribution
from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError, check_counts, check_type
from metalens.learners import Learner, NetworkLearner
from metalens.learners.base import task_loss
from metalens.learners.given import check_batch, explained, named_tensors, warn_of_nonfinite
from metalens.learners.inputs import check_fields
from metalens.learners.labels import check_labels
from metalens.metrics import LOSS, METRICS, Metric, named_metrics, task_metrics, usual_metrics
from metalens.networks.modes import module_mode
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
    metrics: Sequence[str | Metric] = (),
    batching: Batching = "auto",
    chunk: Chunk = None,
    processes: Processes = ALONE,
) -> pd.DataFrame:
    """Adapt to each of `n_tasks` tasks separately, and score the adapted models on their queries.

    Args:
        learner: a trained learner, in evaluation mode for the time.
        tasks: the distribution of held-out tasks.
        n_tasks: number of tasks, `0 ... n_tasks - 1`.
        metrics: their names in `metalens.metrics.METRICS`, or one's own; the first is the primary one, and
            `"loss"` is the learner's. By default those that the learner names, else the distribution, else
            see below.
        batching: how the learner is mapped over tasks.
        chunk: tasks that are computed at a time, at most 50. It changes memory, not scores.
        processes: those that share the chunks, and all get all rows; by default this one alone.

    Returns:
        Rows `task, metric, value`, by default of these metrics, the primary one first: with a loss of one's
        own the `loss`, else for classes `accuracy` (fraction) and `cross_entropy` (nats), and for real
        targets `mse` (in squared units of y). Where predictions are shaped as real targets are, the
        distribution's `extra_metrics` are beside them: `pearson_r2` (squared correlation),
        `pearson_r2_above_0.3` (1 if it is above 0.3, so that the mean is a share of tasks), both of three
        queries or more, and `rmse` (in units of y). The distribution's `extra_scores` follow. If adaptation
        to a task diverged, its value is not finite; a warning tells if the data are at fault.

    Raises:
        MetaLensError: `n_tasks` or `chunk` is less than 1; there is no such metric, or it is of other
            targets or predictions; the tasks do not fit the learner.

    >>> from metalens import MAML, Sinusoid, evaluate, mlp
    >>> evaluate(MAML(mlp()), Sinusoid("test"), n_tasks=3).task.tolist()
    [0, 1, 2]
    >>> learner = MAML(mlp(), loss=torch.nn.functional.l1_loss)
    >>> evaluate(learner, Sinusoid("test"), n_tasks=1).metric.tolist()
    ['loss']
    >>> evaluate(learner, Sinusoid("test"), n_tasks=1, metrics=["rmse", "loss"]).metric.tolist()
    ['rmse', 'loss']
    """
    check_type(learner, Learner, "What is evaluated", "give a learner, such as objective.learner")
    check_type(tasks, TaskDistribution, "tasks", 'give a distribution, such as Sinusoid("test")')
    check_sizes(n_tasks=n_tasks)
    check_chunk(chunk)
    check_fields(learner, tasks)
    import pandas as pd  # slow to import

    at_a_time = min(chunk, MAX_CHUNK) if isinstance(chunk, int) else MAX_CHUNK
    if not tasks.equal_sizes:
        at_a_time = 1
    frames = []
    with module_mode(learner, training=False), torch.no_grad():
        for start in processes.scatter(range(0, n_tasks, at_a_time)):
            numbers = range(start, min(start + at_a_time, n_tasks))
            drawn = tasks.batch(numbers)
            check_batch(drawn, learner.min_support)
            check_labels(learner, drawn, numbers)
            batch = place(drawn, learner.device, learner.dtype)
            fine = torch.promote_types(learner.dtype, torch.float32)
            adapted = AdaptedTasks(learner, batch, batching)
            with explained(learner, **named_tensors(batch)):
                predictions = adapted.query_predictions.to(fine)
            y, known = place((batch.query.y, batch.support.y), learner.device, fine)
            losses = partial(adapted.map, learner.loss, predictions, y)
            found = _scores(learner, tasks, numbers, predictions, y, known, losses, metrics)
            if not next(iter(found.values())).isfinite().all():
                warn_of_nonfinite(drawn, numbers)
            tables = [
                pd.DataFrame({"task": numbers, "metric": metric, "value": values.tolist()})
                for metric, values in found.items()
            ]
            frames.append(pd.concat(tables))
    return pd.concat(processes.gather_objects(frames), ignore_index=True)


def metrics_of(
    learner: Learner, tasks: TaskDistribution, y: Tensor, metrics: Sequence[str | Metric] = ()
) -> list[Metric]:
    """Return the metrics of a learner's predictions for tasks with targets y, the primary one first.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> learner = MAML(mlp(), loss=torch.nn.functional.l1_loss)
    >>> [metric.name for metric in metrics_of(learner, Sinusoid(), torch.zeros(1, 2, 1))]
    ['loss']
    """
    named = metrics or learner.metrics or tasks.metrics
    return named_metrics(named or ([LOSS] if learner.loss is not task_loss else usual_metrics(y)))


def undefined_scores(learner: Learner, tasks: TaskDistribution, *, n_tasks: int = 600) -> pd.DataFrame:
    """Return the rows of `evaluate` for a learner whose training diverged: all values are nan.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> undefined_scores(MAML(mlp()), Sinusoid("test"), n_tasks=1).values.tolist()
    [[0, 'mse', nan]]
    """
    import pandas as pd

    batch = tasks.batch([0])
    y = batch.query.y.float() if batch.query.y.is_floating_point() else batch.query.y
    if isinstance(learner, NetworkLearner) and not learner.headless:
        n_outputs = learner.network.n_outputs
    else:
        n_outputs = y.shape[-1] if y.is_floating_point() else int(y.max()) + 1
    predictions = torch.full((*y.shape[:2], n_outputs), torch.nan)
    lost = torch.full((1,), torch.nan)
    found = _scores(learner, tasks, [0], predictions, y, batch.support.y, lambda: lost)
    rows = [(task, metric, math.nan) for metric in found for task in range(n_tasks)]
    return pd.DataFrame(rows, columns=["task", "metric", "value"])


def _scores(
    learner: Learner, tasks: TaskDistribution, numbers: Sequence[int], predictions: Tensor, y: Tensor,
    known: Tensor, losses: Callable[[], Tensor], metrics: Sequence[str | Metric] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """Return the scores `(T,)` of tasks by name, the primary one first; `losses` returns the learner's."""
    named = metrics_of(learner, tasks, y, metrics)
    found = task_metrics(predictions, y, known, named, losses)
    if named[0].name not in found:
        raise MetaLensError(
            f"{named[0].name} says nothing about tasks of {known.shape[1]} support and {y.shape[1]} query "
            "examples; name another metric first, or give tasks more examples."
        )
    if y.is_floating_point() and predictions.shape == y.shape and not metrics:
        found |= task_metrics(predictions, y, known, tasks.extra_metrics)
    scores = tasks.extra_scores(numbers, predictions, y)
    return found | {METRICS[name].name: of_tasks for name, of_tasks in scores.items()}


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
        metrics: of which the first decides; see `evaluate`.
    """

    tasks: TaskDistribution
    n_tasks: int = 200
    every: int = 500
    patience: int | None = None
    metrics: Sequence[str | Metric] = ()

    def __post_init__(self) -> None:
        check_type(self.tasks, TaskDistribution, "tasks", 'give a distribution, such as Sinusoid("val")')
        check_counts(self, n_tasks=self.n_tasks, every=self.every, patience=self.patience)
        named_metrics(self.metrics)
