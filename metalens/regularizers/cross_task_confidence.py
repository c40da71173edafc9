"""Caution about strangers: models of other tasks should not be sure of a task's queries."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.regularizers.base import Regularizer
from metalens.regularizers.label_smoothing import check_classes, distance_from_uniform


class CrossTaskConfidencePenalty(Regularizer):
    """A price on confident answers of other tasks' models to a task's queries; for classification.

    The models of all other tasks predict the queries of task i, as in `TRLearner` with all relations 1; the
    average of their logits should be equal for all C classes, whatever the true one is:

        weight * (1/T) sum_i (1/q) sum_j KL(uniform || softmax(a_ij)),
        a_ij = sum_{p != i} f_p(x_ij) / (T - 1)

    Where class slots are dealt at random, a query's slot is independent of what other tasks' models say, and
    the cross-entropy that TRLearner descends has this expectation, up to the constant ln C. So this is what
    remains of it without relations and without labels: a control that tells whether they add anything.

    Args:
        weight: strength of the term; at equal weight it is as strong as TRLearner with uniform relations.

    Raises:
        MetaLensError: the weight is negative; real targets; a meta-batch below 2.

    >>> from metalens import AdaptedTasks, Examples, MAML, Task, mlp
    >>> one = Examples(torch.zeros(3, 5, 1), torch.zeros(3, 5, dtype=torch.int64))
    >>> adapted = AdaptedTasks(MAML(mlp(1, 5)), Task(one, one))
    >>> terms = CrossTaskConfidencePenalty(weight=0.1).loss_terms(adapted)
    >>> terms["cross_task_confidence"].shape
    torch.Size([])

    Source: none; made as a control for TRLearner. The measure is that of G. Pereyra and others, "Regularizing
    Neural Networks by Penalizing Confident Output Distributions", 2017, arXiv 1701.06548, with the order of
    its two distributions exchanged, so that it is the expectation of a cross-entropy.
    """

    min_meta_batch_size = 2
    gathers = True

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise MetaLensError(
                f"CrossTaskConfidencePenalty: weight must be 0 or more and finite, got {weight}."
            )
        self.weight = weight

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        check_classes("CrossTaskConfidencePenalty", adapted)
        predictions = adapted.cross_predictions()  # (T, T of all processes, q, c)
        itself = adapted.own(torch.eye(adapted.n_all_tasks, dtype=torch.bool, device=predictions.device))
        shares = (~itself).to(predictions) / (adapted.n_all_tasks - 1)
        average = torch.einsum("tk,tkqc->tqc", shares, predictions)
        return {"cross_task_confidence": self.weight * distance_from_uniform(average).mean()}
