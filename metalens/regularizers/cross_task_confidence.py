"""Penalize confident predictions of other tasks' models."""

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import check_nonnegative
from metalens.regularizers.base import Regularizer
from metalens.regularizers.label_smoothing import check_classes, distance_from_uniform


class CrossTaskConfidencePenalty(Regularizer):
    """Penalize confident predictions of other tasks' models on a task's queries; for classification.

    The models of all other tasks predict the queries of task i, as in `TRLearner` with all relations 1. The
    average of their logits should be equal for all C classes, whatever the true class:

        weight * (1/T) sum_i (1/q) sum_j KL(uniform || softmax(a_ij)),
        a_ij = sum_{p != i} f_p(x_ij) / (T - 1)

    If class slots are assigned at random, a query's slot is independent of the other models' predictions, and
    this is the expectation of TRLearner's cross-entropy, up to the constant ln C. It is a control: TRLearner
    without relations and labels, at equal weight as strong as TRLearner with uniform relations.

    Args:
        weight: strength of the term.

    Raises:
        MetaLensError: the weight is negative; real targets; a meta-batch below 2.

    >>> from metalens import AdaptedTasks, Examples, MAML, Task, mlp
    >>> one = Examples(torch.zeros(3, 5, 1), torch.zeros(3, 5, dtype=torch.int64))
    >>> list(CrossTaskConfidencePenalty().loss_terms(AdaptedTasks(MAML(mlp(1, 5)), Task(one, one))))
    ['cross_task_confidence']

    Source: ours, a control for TRLearner. The measure is that of G. Pereyra and others, "Regularizing Neural
    Networks by Penalizing Confident Output Distributions", 2017, arXiv 1701.06548, with its two
    distributions exchanged, so that it is the expectation of a cross-entropy.
    """

    min_meta_batch_size = 2
    gathers = True

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        check_nonnegative(self, weight=weight)
        self.weight = weight

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        check_classes("CrossTaskConfidencePenalty", adapted)
        predictions = adapted.cross_predictions()  # (T, T of all processes, q, c)
        itself = adapted.own(torch.eye(adapted.n_all_tasks, dtype=torch.bool, device=predictions.device))
        shares = (~itself).to(predictions) / (adapted.n_all_tasks - 1)
        average = torch.einsum("tk,tk...->t...", shares, predictions)
        return {"cross_task_confidence": self.weight * distance_from_uniform(average).mean()}
