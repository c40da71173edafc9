"""Scores of a learner on held-out tasks, one row per task and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.batching import Batching, Chunk, check_chunk
from metalens.distributions import TaskDistribution
from metalens.episode import Episode
from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.learners.base import check_targets, module_mode
from metalens.processes import ALONE, Processes
from metalens.tasks import place

if TYPE_CHECKING:
    import pandas as pd

HIGHER_IS_BETTER = frozenset({"accuracy", "r2", "r2_above_0.3", "skill"})  # every other metric is a loss
CHUNK = 50  # tasks at a time, at most; bounds memory, and does not change the scores


def evaluate(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    n_tasks: int = 600,
    batching: Batching = "auto",
    chunk: Chunk = None,
    processes: Processes = ALONE,
) -> pd.DataFrame:
    """Adapt to each of `n_tasks` tasks by itself, and score the adapted models on their queries.

    Args:
        learner: a trained learner; it is put into evaluation mode and left as it was.
        tasks: the distribution of held-out tasks.
        n_tasks: how many tasks, numbers `0 ... n_tasks - 1`.
        batching: how the learner is mapped over tasks.
        chunk: tasks that are computed at a time, at most 50. It decides the memory, and not the scores.
        processes: those that divide the chunks among them, and all get all rows; by default this one alone.

    Returns:
        Rows `task, metric, value`. Classification has the metrics `accuracy` (fraction, the primary one)
        and `loss` (cross-entropy, nats); regression has `mse` (in squared units of y), and those of
        `FURTHER_METRICS` that the distribution names in `further_metrics`: `r2` (squared correlation),
        `r2_above_0.3` (1 where it is above 0.3, so that the mean is a share of tasks) and `rmse` (in units of
        y). The distribution's own `further_scores` follow. A task on which adaptation diverged has a value
        that is not finite.

    Raises:
        MetaLensError: fewer than one task was asked for, or a chunk of fewer.

    >>> from metalens import MAML, Sinusoid, evaluate, mlp
    >>> evaluate(MAML(mlp()), Sinusoid("test"), n_tasks=3).task.tolist()
    [0, 1, 2]
    """
    if n_tasks < 1:
        raise MetaLensError(f"n_tasks must be at least 1, got {n_tasks}.")
    check_chunk(chunk)
    import pandas as pd  # takes as long to import as all of MetaLens

    at_a_time = min(chunk, CHUNK) if isinstance(chunk, int) else CHUNK
    if not tasks.equal_sizes:
        at_a_time = 1
    frames = []
    with module_mode(learner, training=False), torch.no_grad():
        for start in processes.deal(range(0, n_tasks, at_a_time)):
            numbers = range(start, min(start + at_a_time, n_tasks))
            batch = place(tasks.batch(numbers), learner.device, learner.dtype)
            predictions = Episode(learner, batch, batching).query_predictions
            fine = torch.promote_types(learner.dtype, torch.float32)
            y = place(batch.query.y, learner.device, fine)
            metrics = _all_metrics(tasks, numbers, predictions.to(fine), y)
            tables = [
                pd.DataFrame({"task": numbers, "metric": metric, "value": values.tolist()})
                for metric, values in metrics.items()
            ]
            frames.append(pd.concat(tables))
    return pd.concat(processes.collect(frames), ignore_index=True)


def undefined_scores(tasks: TaskDistribution, *, n_tasks: int = 600) -> pd.DataFrame:
    """Return the rows of `evaluate` for a learner whose training diverged: no value is a number.

    >>> from metalens import Sinusoid
    >>> undefined_scores(Sinusoid("test"), n_tasks=1).values.tolist()
    [[0, 'mse', nan]]
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    y = tasks.batch([0]).query.y
    n_outputs = y.shape[-1] if y.is_floating_point() else int(y.max()) + 1
    predictions = torch.full((*y.shape[:2], n_outputs), torch.nan)
    tables = [
        pd.DataFrame({"task": range(n_tasks), "metric": metric, "value": math.nan})
        for metric in _all_metrics(tasks, [0], predictions, y)
    ]
    return pd.concat(tables, ignore_index=True)


def _all_metrics(
    tasks: TaskDistribution, numbers: Sequence[int], predictions: Tensor, y: Tensor
) -> dict[str, Tensor]:
    usual = task_metrics(predictions, y, tasks.further_metrics)
    return usual | tasks.further_scores(numbers, predictions, y)


def mean_scores(rows: pd.DataFrame) -> dict[str, float]:
    """Return the mean of every metric over the rows of `evaluate`, the primary metric first.

    A task without a finite score has its part in it, so that the mean is not finite either.

    >>> import pandas as pd
    >>> mean_scores(pd.DataFrame({"task": [0, 1], "metric": "mse", "value": [1.0, 2.0]}))
    {'mse': 1.5}
    """
    of_metrics = rows.groupby("metric", sort=False)["value"]
    # skipna=False, as leaving out the tasks that diverged would hide them.
    return {str(metric): float(values.mean(skipna=False)) for metric, values in of_metrics}


def squared_correlation(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the squared correlation (Pearson) of predictions and targets of every task.

    `r^2 = cov(p, y)^2 / (var p var y)`: 1 where the targets are a linear function of the predictions,
    whatever its scale and sign. Constant predictions or targets explain nothing, and count as 0.

    Args:
        predictions: `(T, q, c)`.
        y: real targets `(T, q, c)`.

    Returns:
        `(T,)`, the mean over the c targets; not a number where a prediction is not finite.

    >>> squared_correlation(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[0.0], [-1.0], [-2.0]]]))
    tensor([1.])
    """
    p, t = _deviations(predictions), _deviations(y)
    product = p.square().sum(1) * t.square().sum(1)
    share = (p * t).sum(1).square() / product.clamp(min=torch.finfo(product.dtype).tiny)
    return share.clamp(max=1).mean(1)


def skill(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the skill of the predictions for every task: the share of its variance that they explain.

    `max(1 - mse / variance, -1)`, with the variance of all targets of the task, of support and queries. 1 is
    perfect, and 0 no better than to say the mean. It does not depend on the unit of a task, and a task on
    which a model is of no use counts at most as much as one that it solves. A task whose targets are all
    equal has nothing to be explained, and counts as 0.

    Args:
        predictions: `(T, q, c)`.
        y: real targets of the queries `(T, q, c)`.
        known: those of the support `(T, s, c)`.

    Returns:
        `(T,)`, the mean over the c targets; not a number where a prediction is not finite.

    >>> y, known = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[0.0], [2.0]]])
    >>> [skill(torch.tensor([[[p], [p]]]), y, known).item() for p in (0.0, 1.0, 9.0)]
    [-1.0, 0.0, -1.0]
    """
    variance = _deviations(torch.cat([known, y], 1)).square().mean(1)
    unexplained = (predictions - y).square().mean(1)
    share = (1 - unexplained / variance).clamp(min=-1).masked_fill(variance == 0, 0.0).mean(1)
    return share.masked_fill(~predictions.isfinite().flatten(1).all(1), torch.nan)


def _deviations(values: Tensor) -> Tensor:
    """Return values minus their mean over axis 1; 0 where rounding alone tells them apart."""
    deviations = values - values.mean(1, keepdim=True)
    rounding = 8 * torch.finfo(values.dtype).eps * values.abs().amax(1, keepdim=True)
    return deviations.masked_fill(deviations.abs() <= rounding, 0.0)


def is_correlated(predictions: Tensor, y: Tensor) -> Tensor:
    """Return 1 for every task whose squared correlation is above 0.3, and 0 for the others, `(T,)`.

    The share of such tasks is how the literature on drug activity counts the models that are of use.

    >>> is_correlated(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[0.0], [1.0], [2.0]]]))
    tensor([1.])
    """
    r2 = squared_correlation(predictions, y)
    return (r2 > 0.3).to(r2.dtype).masked_fill(r2.isnan(), torch.nan)


def root_mean_squared_error(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the root of the mean squared error of every task, `(T,)`.

    >>> root_mean_squared_error(torch.tensor([[[3.0], [0.0]]]), torch.tensor([[[0.0], [3.0]]]))
    tensor([3.])
    """
    return (predictions - y).square().flatten(1).mean(1).sqrt()


FURTHER_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "r2": squared_correlation,
    "r2_above_0.3": is_correlated,
    "rmse": root_mean_squared_error,
}


def task_metrics(predictions: Tensor, y: Tensor, further: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the metrics of every task by name.

    Args:
        predictions: `(T, q, c)`.
        y: class indices `(T, q)` or real targets `(T, q, c)`.
        further: metrics beside the usual ones, by their names in `FURTHER_METRICS`.

    Returns:
        Tensors `(T,)`; the first one is the primary metric.

    >>> task_metrics(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), torch.tensor([[1, 0]]))["accuracy"]
    tensor([0.5000])
    """
    check_targets(predictions, y)
    if y.is_floating_point():
        usual = {"mse": (predictions - y).square().flatten(1).mean(1)}
        return usual | {name: FURTHER_METRICS[name](predictions, y) for name in further}
    diverged = ~predictions.isfinite().flatten(1).all(1)  # else arg max would score them near chance
    accuracy = (predictions.argmax(-1) == y).to(predictions.dtype).mean(1)
    return {
        "accuracy": accuracy.masked_fill(diverged, torch.nan),
        "loss": F.cross_entropy(predictions.mT, y, reduction="none").mean(1),
    }
