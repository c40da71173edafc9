"""Metrics of a task's predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.learners.base import check_targets

if TYPE_CHECKING:
    pass


HIGHER_IS_BETTER = frozenset(
    {"accuracy", "pearson_r2", "pearson_r2_above_0.3", "r2"}
)  # every other metric is a loss


def pearson_r2(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the squared correlation (Pearson) of predictions and targets of every task.

    `r^2 = cov(p, y)^2 / (var p var y)`: 1 where the targets are a linear function of the predictions,
    whatever its scale and sign. Constant predictions or targets explain nothing, and count as 0.

    Args:
        predictions: `(T, q, c)`.
        y: real targets `(T, q, c)`.

    Returns:
        `(T,)`, the mean over the c targets; not a number where a prediction is not finite.

    >>> pearson_r2(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[0.0], [-1.0], [-2.0]]]))
    tensor([1.])
    """
    p, t = _deviations(predictions), _deviations(y)
    product = p.square().sum(1) * t.square().sum(1)
    share = (p * t).sum(1).square() / product.clamp(min=torch.finfo(product.dtype).tiny)
    return share.clamp(max=1).mean(1)


def r2(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the coefficient of determination of every task: the share of its variance that is explained.

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
    >>> [r2(torch.tensor([[[p], [p]]]), y, known).item() for p in (0.0, 1.0, 9.0)]
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
    r2 = pearson_r2(predictions, y)
    return (r2 > 0.3).to(r2.dtype).masked_fill(r2.isnan(), torch.nan)


def root_mean_squared_error(predictions: Tensor, y: Tensor) -> Tensor:
    """Return the root of the mean squared error of every task, `(T,)`.

    >>> root_mean_squared_error(torch.tensor([[[3.0], [0.0]]]), torch.tensor([[[0.0], [3.0]]]))
    tensor([3.])
    """
    return (predictions - y).square().flatten(1).mean(1).sqrt()


EXTRA_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pearson_r2": pearson_r2,
    "pearson_r2_above_0.3": is_correlated,
    "rmse": root_mean_squared_error,
}


def task_metrics(predictions: Tensor, y: Tensor, further: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the metrics of every task by name.

    Args:
        predictions: `(T, q, c)`.
        y: class indices `(T, q)` or real targets `(T, q, c)`.
        further: metrics beside the usual ones, by their names in `EXTRA_METRICS`.

    Returns:
        Tensors `(T,)`; the first one is the primary metric.

    >>> task_metrics(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), torch.tensor([[1, 0]]))["accuracy"]
    tensor([0.5000])
    """
    check_targets(predictions, y)
    if y.is_floating_point():
        usual = {"mse": (predictions - y).square().flatten(1).mean(1)}
        return usual | {name: EXTRA_METRICS[name](predictions, y) for name in further}
    diverged = ~predictions.isfinite().flatten(1).all(1)  # else arg max would score them near chance
    accuracy = (predictions.argmax(-1) == y).to(predictions.dtype).mean(1)
    return {
        "accuracy": accuracy.masked_fill(diverged, torch.nan),
        "cross_entropy": F.cross_entropy(predictions.mT, y, reduction="none").mean(1),
    }


FRACTIONS = frozenset({"accuracy", "pearson_r2_above_0.3"})  # metrics that are shown in percent
