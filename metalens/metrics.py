"""Metrics of a task's predictions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from metalens.errors import MetaLensError
from metalens.scores import (
    accuracy,
    average_precision,
    balanced_accuracy,
    brier_score,
    cross_entropy,
    is_correlated,
    mean_squared_error,
    pearson_r2,
    r2,
    roc_auc,
    root_mean_squared_error,
)

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

    >>> import torch
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
    predictions: Tensor, y: Tensor, known: Tensor, metrics: Iterable[str | Metric],
    losses: Callable[[], Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the metrics of every task by name.

    Args:
        predictions: `(T, q, ...)`.
        y: targets of the queries, `(T, q, ...)`.
        known: those of the support.
        metrics: or their names in `METRICS`.
        losses: returns the learner's losses of the predictions, `(T,)`, for the metric `loss`.

    Returns:
        Tensors `(T,)`, without metrics that tasks of this size do not have: from one or two queries the
        correlation is 0 or 1 whatever is predicted, and so is r2 if there are no other targets.

    Raises:
        MetaLensError: there is no such metric, only the distribution or the learner can compute it, or it
            is of other targets or predictions.

    >>> import torch
    >>> y = torch.tensor([[1, 0]])
    >>> task_metrics(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), y, y, ["accuracy"])
    {'accuracy': tensor([0.5000])}
    """
    found = {}
    for metric in named_metrics(metrics):
        if metric.name == LOSS and losses is not None:
            found[LOSS] = losses()
            continue
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
