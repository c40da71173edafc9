"""Scores of the predictions for tasks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.tasks import check_targets


def accuracy(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the fraction of queries of every task whose class has the largest logit, `(T,)`.

    >>> accuracy(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), torch.tensor([[1, 0]]), torch.tensor([[0, 1]]))
    tensor([0.5000])
    """
    _check_classes(logits, y)
    diverged = ~logits.isfinite().flatten(1).all(1)  # argmax would score them near chance
    right = (logits.argmax(2) == y).to(logits.dtype)
    return right.flatten(1).mean(1).masked_fill(diverged, torch.nan)


def cross_entropy(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the mean cross-entropy of every task in nats, `(T,)`.

    >>> cross_entropy(torch.zeros(1, 2, 4), torch.tensor([[1, 0]]), torch.tensor([[0, 1]])).exp()
    tensor([4.])
    """
    _check_classes(logits, y)
    losses = F.cross_entropy(logits.movedim(2, -1).flatten(0, -2), y.flatten(), reduction="none")
    return losses.view(len(y), -1).mean(1)


def balanced_accuracy(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the mean recall of the classes that the queries of every task have, `(T,)`.

    Unlike the accuracy, it is 1/2 and not 0.9 for always the more frequent one of two classes.

    >>> y = torch.tensor([[0, 0, 0, 1]])
    >>> balanced_accuracy(torch.tensor([[[1.0, 0.0]] * 4]), y, known=y)
    tensor([0.5000])
    """
    _check_classes(logits, y, dense=False)
    diverged = ~logits.isfinite().flatten(1).all(1)
    of_class = F.one_hot(y, logits.shape[-1]).to(logits.dtype)
    right = (logits.argmax(-1) == y).to(logits.dtype)[..., None] * of_class
    counts = of_class.sum(1)
    recall = (right.sum(1) / counts.clamp(min=1)).sum(1) / (counts > 0).sum(1)
    return recall.masked_fill(diverged, torch.nan)


def average_precision(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the average precision for the rarest class among the queries of every task, `(T,)`.

    `sum_i (R_i - R_(i-1)) P_i` with precision P and recall R of the i queries with the highest probability of
    that class; a random order has the share of the class. Of classes that are equally rare it is the last.

    >>> y = torch.tensor([[0, 0, 0, 1]])
    >>> average_precision(torch.tensor([[[0.0, -1.0], [0.0, 0.5], [0.0, 2.0], [0.0, 1.0]]]), y, known=y)
    tensor([0.5000])
    """
    from sklearn.metrics import average_precision_score  # slow to import

    return _of_rarest(average_precision_score, logits, y, n_classes=1)


def roc_auc(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the area under the ROC curve for the rarest class among the queries of a task, `(T,)`.

    It is the probability that a query of that class has a higher probability of it than another query; 1/2 in
    a random order. Of classes that are equally rare it is the last. It is nan for queries of one class.

    >>> y = torch.tensor([[0, 0, 0, 1]])
    >>> roc_auc(torch.tensor([[[0.0, -1.0], [0.0, 0.5], [0.0, 2.0], [0.0, 1.0]]]), y, known=y)
    tensor([0.6667])
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    return _of_rarest(roc_auc_score, logits, y, n_classes=2)


def _of_rarest(score: Callable[..., Any], logits: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Return a score of the probabilities of each task's rarest class, `(T,)`.

    It is nan if one is not finite, or the queries have fewer classes than `n_classes`.
    """
    _check_classes(logits, y, dense=False)
    found = logits.new_full(y.shape[:1], torch.nan)
    for task, (of_task, labels) in enumerate(zip(logits, y, strict=True)):
        classes, counts = labels.unique(return_counts=True)
        if of_task.isfinite().all() and len(classes) >= n_classes:
            rarest = classes.flip(0)[counts.flip(0).argmin()]
            chance = of_task.log_softmax(-1)[:, rarest].cpu().numpy()
            found[task] = score((labels == rarest).cpu().numpy(), chance)
    return found


def brier_score(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the mean squared error of the probabilities of all classes for every task, `(T,)`.

    `(1/q) sum_i sum_c (p_ic - [y_i = c])^2`, from 0 to 2.

    >>> brier_score(torch.zeros(1, 1, 2), torch.tensor([[1]]), torch.tensor([[0]]))
    tensor([0.5000])
    """
    _check_classes(logits, y, dense=False)
    errors = logits.softmax(-1) - F.one_hot(y, logits.shape[-1])
    return errors.square().sum(-1).mean(1)


def mean_squared_error(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the mean squared error of every task, `(T,)`.

    >>> mean_squared_error(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 1, 1))
    tensor([5.])
    """
    _check_numbers(predictions, y)
    return (predictions - y).square().flatten(1).mean(1)


def pearson_r2(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the squared Pearson correlation of predictions and targets of every task.

    `r^2 = cov(p, y)^2 / (var p var y)`: 1 if the targets are a linear function of the predictions, whatever
    its scale and sign. Constant predictions or targets count as 0.

    Args:
        predictions: `(T, q, c)`.
        y: real targets `(T, q, c)`.
        known: those of the support, unused.

    Returns:
        `(T,)`, the mean over the c targets; nan if a prediction is not finite.

    >>> y = torch.tensor([[[0.0], [-1.0], [-2.0]]])
    >>> pearson_r2(torch.tensor([[[1.0], [2.0], [3.0]]]), y, known=y)
    tensor([1.])
    """
    _check_numbers(predictions, y, dense=False)
    p, t = _deviations(predictions), _deviations(y)
    product = p.square().sum(1) * t.square().sum(1)
    share = (p * t).sum(1).square() / product.clamp(min=torch.finfo(product.dtype).tiny)
    return share.clamp(max=1).mean(1)


def r2(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the coefficient of determination of every task: the fraction of variance explained.

    `max(1 - mse / variance, -1)`, with the variance of all targets of the task, of support and queries. 1 is
    perfect, and 0 no better than predicting the mean. It does not depend on the unit of a task, and the bound
    makes a task on which a model fails count at most as much as one that it solves. A task whose targets are
    all equal counts as 0.

    Args:
        predictions: `(T, q, c)`.
        y: real targets of the queries `(T, q, c)`.
        known: those of the support `(T, s, c)`.

    Returns:
        `(T,)`, the mean over the c targets; nan if a prediction is not finite.

    >>> y = torch.tensor([[[0.0], [2.0]]])
    >>> [r2(torch.tensor([[[p], [p]]]), y, known=y).item() for p in (0.0, 1.0, 9.0)]
    [-1.0, 0.0, -1.0]
    """
    _check_numbers(predictions, y, dense=False)
    variance = _deviations(torch.cat([known, y], 1)).square().mean(1)
    unexplained = (predictions - y).square().mean(1)
    share = (1 - unexplained / variance).clamp(min=-1).masked_fill(variance == 0, 0.0).mean(1)
    return share.masked_fill(~predictions.isfinite().flatten(1).all(1), torch.nan)


def _deviations(values: Tensor) -> Tensor:
    """Return values minus their mean over axis 1; 0 if they differ by rounding only."""
    deviations = values - values.mean(1, keepdim=True)
    rounding = 8 * torch.finfo(values.dtype).eps * values.abs().amax(1, keepdim=True)
    return deviations.masked_fill(deviations.abs() <= rounding, 0.0)


def is_correlated(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return 1 for every task whose squared correlation is above 0.3, and 0 for the others, `(T,)`.

    Papers on drug activity count tasks with useful models in this way.

    >>> y = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> is_correlated(torch.tensor([[[1.0], [2.0], [3.0]]]), y, known=y)
    tensor([1.])
    """
    share = pearson_r2(predictions, y, known)
    return (share > 0.3).to(share.dtype).masked_fill(share.isnan(), torch.nan)


def root_mean_squared_error(predictions: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """Return the root of the mean squared error of every task, `(T,)`.

    >>> y = torch.tensor([[[0.0], [3.0]]])
    >>> root_mean_squared_error(torch.tensor([[[3.0], [0.0]]]), y, known=y)
    tensor([3.])
    """
    return mean_squared_error(predictions, y, known).sqrt()


def _check_classes(logits: Tensor, y: Tensor, *, dense: bool = True) -> None:
    if not dense:
        _refuse_dense(logits)
    if y.is_floating_point():
        raise MetaLensError("Scores of classes need class indices, got real targets; name other metrics.")
    check_targets(logits, y, axis=2)
    if (y < 0).any():
        raise MetaLensError(
            f"Scores of classes need classes from 0 on, got {int(y.min())}; name metrics that leave such "
            "targets out, as the loss may do."
        )


def _refuse_dense(predictions: Tensor) -> None:
    if predictions.dim() != 3:
        raise MetaLensError(
            f"This score is of predictions (n, c) for a task, got {tuple(predictions.shape[1:])}; name a "
            "metric of dense predictions, such as accuracy or mse."
        )


def _check_numbers(predictions: Tensor, y: Tensor, *, dense: bool = True) -> None:
    if not dense:
        _refuse_dense(predictions)
    if not y.is_floating_point():
        raise MetaLensError("Scores of real targets got class indices; name other metrics.")
    check_targets(predictions, y)
