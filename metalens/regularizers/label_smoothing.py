"""Label smoothing: penalize confident predictions of adapted models on their own queries."""

import math

from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_nonnegative
from metalens.regularizers.base import Regularizer


class LabelSmoothing(Regularizer):
    """Penalize predictions of an adapted model that are far from uniform; for classification.

    With `p_ijc` the probability that task i's model gives class c of C for its own query j:

        weight * (1/T) sum_i (1/q) sum_j KL(uniform || p_ij),
        KL(uniform || p) = -ln C - (1/C) sum_c ln p_c

    Together with the query loss this is `1 + weight` times the cross-entropy with smoothed targets, in which
    all classes share `e = weight / (1 + weight)` and the true class has `1 - e` more, up to a constant. It is
    a control for TRLearner, which penalizes the predictions of other tasks' models as much.

    Args:
        weight: strength of the term.

    Raises:
        MetaLensError: the weight is negative; real targets.

    >>> from metalens import AdaptedTasks, Examples, MAML, Task, mlp
    >>> import torch
    >>> one = Examples(torch.zeros(2, 5, 1), torch.zeros(2, 5, dtype=torch.int64))
    >>> list(LabelSmoothing().loss_terms(AdaptedTasks(MAML(mlp(1, 5)), Task(one, one))))
    ['label_smoothing']

    Source: C. Szegedy and others, "Rethinking the Inception Architecture for Computer Vision", 2016,
    arXiv 1512.00567. Deviations: a term beside the unchanged query loss, 0 for uniform predictions.
    """

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        check_nonnegative(self, weight=weight)
        self.weight = weight

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        check_classes("LabelSmoothing", adapted)
        return {"label_smoothing": self.weight * distance_from_uniform(adapted.query_predictions).mean()}


def check_classes(name: str, adapted: AdaptedTasks) -> None:
    """Raise `MetaLensError` if targets are real numbers."""
    if adapted.tasks.query.y.is_floating_point():
        raise MetaLensError(f"{name} is for classification, got real targets.")


def distance_from_uniform(logits: Tensor) -> Tensor:
    """Return `KL(uniform || softmax(logits))` in nats, `(T, q, ...)`, of logits `(T, q, C, ...)`.

    >>> import torch
    >>> distance_from_uniform(torch.zeros(1, 2, 5)).abs().max() < 1e-6
    tensor(True)
    """
    return -math.log(logits.shape[2]) - logits.log_softmax(2).mean(2)
