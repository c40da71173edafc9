"""Metrics of a task's predictions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.tasks import check_targets

LOSS = "loss"  # the metric that is the learner's own loss


@dataclass(frozen=True)
class Metric:
    """A score of a task.

    Attributes:
        name: as in tables.
        function: from predictions `(T, q, c, ...)` of the queries, their targets `(T, q, ...)` or `(T, q, c,
            ...)` and those of the support to scores `(T,)`, nan if a prediction is not finite; `None` for a
            score that only the distribution can compute, by `extra_scores`, or the learner, its loss.
        better: whether higher or lower scores are better.
        unit: `"fraction"` is shown in percent.
        meaning: one sentence that explains it under a table, if its name does not.
        min_queries: fewest queries of a task whose score says something about predictions.
        min_targets: fewest targets, of support and queries together.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    better: Literal["higher", "lower"]
    unit: str = ""
    meaning: str = ""
    min_queries: int = 1
    min_targets: int = 1

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise MetaLensError(f"{self.name}: better must be 'higher' or 'lower', got {self.better!r}.")

    def is_defined(self, n_queries: int, n_known: int) -> bool:
        """Return whether tasks of this size have the score.

        >>> METRICS["pearson_r2"].is_defined(2, 9)  # two points are always on a line
        False
        """
        return n_queries >= self.min_queries and n_queries + n_known >= self.min_targets

    @property
    def sign(self) -> int:
        """The factor with which higher is better: 1 or -1."""
        return 1 if self.better == "higher" else -1

    @property
    def scale(self) -> int:
        """The factor with which it is shown: 100 for percent."""
        return 100 if self.unit == "fraction" else 1


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


class _Registry(dict[str, Metric]):
    def __missing__(self, name: str) -> Metric:
        raise MetaLensError(
            f"There is no metric {name!r}; choose from {', '.join(self)}, or add a Metric of that name to "
            "metalens.metrics.METRICS."
        )


METRICS: dict[str, Metric] = _Registry()
for metric in (
    Metric("accuracy", accuracy, "higher", "fraction"),
    Metric("mse", mean_squared_error, "lower", "squared units of y"),
    Metric(
        "r2", r2, "higher", "share of variance",
        "r2 is the share of a task's variance that is explained: 1 is perfect, 0 no better than the mean; "
        "unlike scikit-learn's r2_score, it is at least -1.",
        min_targets=3,
    ),
    Metric(
        "pearson_r2", pearson_r2, "higher", "squared correlation",
        "pearson_r2 is the squared correlation of predictions and targets, whatever their scale, and not "
        "scikit-learn's r2_score.",
        min_queries=3,
    ),
    Metric("pearson_r2_above_0.3", is_correlated, "higher", "fraction", min_queries=3),
    Metric("rmse", root_mean_squared_error, "lower", "units of y"),
    Metric(
        "balanced_accuracy", balanced_accuracy, "higher", "fraction",
        "balanced_accuracy is the mean recall of the classes, rare ones counting like frequent ones.",
    ),
    Metric(
        "average_precision", average_precision, "higher", "fraction",
        "average_precision is that for the rarest class of a task; a random order has its share of the rows.",
    ),
    Metric(
        "roc_auc", roc_auc, "higher", "fraction",
        "roc_auc is that for the rarest class of a task; a random order has 50%.",
    ),
    Metric("brier_score", brier_score, "lower", "squared probability"),
    Metric("cross_entropy", cross_entropy, "lower", "nats"),
    Metric("smape", None, "lower", "percent"),
    Metric("mase", None, "lower", "naive errors"),
    Metric("circular_error", None, "lower", "degrees"),
    Metric(
        LOSS, None, "lower", "",
        "loss is the learner's own, of its predictions for the queries: comparable between learners with the "
        "same.",
    ),
):  # fmt: skip
    METRICS[metric.name] = metric


def primary_metric(names: Iterable[str]) -> str:
    """Return the primary one of several metrics: the first.

    Raises:
        MetaLensError: it is unknown.

    >>> primary_metric(["mse", "pearson_r2"])
    'mse'
    """
    return METRICS[next(iter(names))].name


def meanings(names: Iterable[str]) -> str:
    """Return the sentences that explain metrics under a table.

    >>> meanings(["mse", "pearson_r2"])
    "pearson_r2 is the squared correlation of predictions and targets, whatever their scale, ..."
    """
    return " ".join(METRICS[name].meaning for name in dict.fromkeys(names) if METRICS[name].meaning)


def usual_metrics(y: Tensor) -> tuple[str, ...]:
    """Return the names of the metrics of targets: of class indices, or of real targets.

    >>> usual_metrics(torch.zeros(1, 2, 1))
    ('mse',)
    """
    return ("mse",) if y.is_floating_point() else ("accuracy", "cross_entropy")


def named_metrics(metrics: Iterable[str | Metric]) -> list[Metric]:
    """Return metrics, each once, of which some are given by their names in `METRICS`.

    Raises:
        MetaLensError: there is no metric of a name, or two have one name.

    >>> [metric.better for metric in named_metrics(["mse", METRICS["accuracy"], "mse"])]
    ['lower', 'higher']
    """
    if isinstance(metrics, str):
        raise MetaLensError(f"metrics must be a list, got the text {metrics!r}; give [{metrics!r}].")
    found: dict[str, Metric] = {}
    for given in metrics:
        metric = METRICS[given] if isinstance(given, str) else given
        if not isinstance(metric, Metric):
            raise MetaLensError(
                f"A metric must be a name or a Metric, got {type(metric).__name__}; make "
                "Metric(name, function, better) of a function."
            )
        if found.setdefault(metric.name, metric) != metric:
            raise MetaLensError(f"Two metrics have the name {metric.name!r}; rename one of them.")
    return list(found.values())


def task_metrics(
    predictions: Tensor, y: Tensor, known: Tensor, metrics: Iterable[str | Metric]
) -> dict[str, Tensor]:
    """Return the metrics of every task by name.

    Args:
        predictions: `(T, q, ...)`.
        y: targets of the queries, `(T, q, ...)`.
        known: those of the support.
        metrics: or their names in `METRICS`.

    Returns:
        Tensors `(T,)`, without metrics that tasks of this size do not have: from one or two queries the
        correlation is 0 or 1 whatever is predicted, and so is r2 if there are no other targets.

    Raises:
        MetaLensError: there is no such metric, only the distribution or the learner can compute it, or it
            is of other targets or predictions.

    >>> y = torch.tensor([[1, 0]])
    >>> task_metrics(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), y, y, ["accuracy"])
    {'accuracy': tensor([0.5000])}
    """
    found = {}
    for metric in named_metrics(metrics):
        if metric.function is None:
            raise MetaLensError(
                f"The metric {metric.name!r} takes more than predictions and targets; let the distribution "
                "compute it in extra_scores."
            )
        if metric.is_defined(y.shape[1], known.shape[1]):
            found[metric.name] = _of_tasks(metric, metric.function(predictions, y, known), len(y))
    return found


def _of_tasks(metric: Metric, values: object, n: int) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (n,):
        return values
    got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    raise MetaLensError(
        f"The metric {metric.name!r} must return a score of each of {n} tasks, a tensor ({n},), got {got}."
    )
