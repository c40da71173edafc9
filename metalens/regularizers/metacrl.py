"""Causal representations for meta-learning: orthogonal factors, few per task, with invariant predictions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_counts, check_nonnegative, check_positive
from metalens.learners import NetworkLearner
from metalens.learners.classification import check_one_class, one_hot
from metalens.regularizers.base import Regularizer


class MetaCRL(Regularizer):
    """Split the features into factors, assign a few to each task, and make their predictions invariant.

    Factors of an input are `Xi^T g(x)`, with features g and a learned matrix Xi, `(d, N)`. A learned
    perceptron f_gr assigns factors to a task from its mean support features:

        a_i = sigmoid( f_gr( Xi^T mean_j g(x_ij) ) )

    The disentangling module keeps the columns of Xi orthogonal and the assignments sparse:

        L_D = o * sum_{k<l} |Xi_k . Xi_l| + s * (1/T) sum_i sum_k ( a_ik + a_ik ln a_ik )

    The causal module fits a linear map W_i from a task's factors `c_i(x) = a_i * Xi^T g(x)` to the targets of
    its support set by ridge regression. On the query set no rescaling should improve it (the penalty of
    invariant risk minimization):

        L_C = v * (1/T) sum_i [ R_i(1) + R_i'(1)^2 ],  R_i(w) = mean_j || w W_i^T c_i(x_ij) - y_ij ||^2

    with one-hot targets in classification. The terms are `weight * L_D` and `weight * L_C`; both also train
    the backbone.

    Args:
        weight: common strength of both terms.
        n_factors: N, at most d.
        hidden: size of the hidden layer of f_gr.
        orthogonality: o.
        sparsity: s.
        invariance: v.
        ridge: W_i minimizes `mean_j || W_i^T c_i(x_ij) - y_ij ||^2 + ridge ||W_i||^2` over the support.

    Raises:
        MetaLensError: a setting is out of range, or n_factors is above d.

    >>> from metalens import ANIL, MetaCRL, Objective, Sinusoid, mlp
    >>> objective = Objective(ANIL(mlp()), [MetaCRL()])
    >>> sorted(objective(Sinusoid().batch(range(4))))
    ['metacrl_disentangle', 'metacrl_invariance', 'query']

    Source: J. Wang and others, "Hacking Task Confounder in Meta-Learning", 2024, arXiv 2312.05771. L_D
    follows the authors' public code. Deviations: the sigmoid, without which the entropy is undefined; tanh in
    f_gr instead of ReLU; the mean over tasks instead of the sum; backbone features instead of inputs; the
    learner itself predicts from all features; all default values. The authors' code has no running causal
    module, so L_C is our form of an invariance objective on query sets, with the penalty of M. Arjovsky and
    others, "Invariant Risk Minimization", 2019, arXiv 1907.02893.
    """

    factors: nn.Parameter
    grouping: nn.Sequential

    def __init__(
        self,
        *,
        weight: float = 0.1,
        n_factors: int = 8,
        hidden: int = 32,
        orthogonality: float = 1.0,
        sparsity: float = 0.1,
        invariance: float = 1.0,
        ridge: float = 0.1,
    ) -> None:
        super().__init__()
        check_counts(self, n_factors=n_factors, hidden=hidden)
        check_nonnegative(self, weight=weight, orthogonality=orthogonality, sparsity=sparsity)
        check_nonnegative(self, invariance=invariance)
        check_positive(self, ridge=ridge)
        self.n_factors, self.hidden, self.weight, self.ridge = n_factors, hidden, weight, ridge
        self.orthogonality, self.sparsity, self.invariance = orthogonality, sparsity, invariance
        self.register_parameter("factors", None)

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        d, n = learner.network.n_features, self.n_factors
        if n > d:
            raise MetaLensError(
                f"MetaCRL: n_factors must be at most the number of features, {d}, got {n}; "
                "more factors cannot be orthogonal."
            )
        if self.factors is None:
            self.factors = nn.Parameter(torch.randn(d, n) / math.sqrt(d))
            self.grouping = nn.Sequential(nn.Linear(n, self.hidden), nn.Tanh(), nn.Linear(self.hidden, n))
            self.to(learner.device, learner.dtype)
        elif len(self.factors) != d:
            raise MetaLensError(
                f"MetaCRL: its factors are of {len(self.factors)} features, but this "
                f"{type(learner).__name__} has {d}; make a new MetaCRL."
            )

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        support, query = adapted.tasks[:2]
        support_factors = adapted.support_features @ self.factors
        query_factors = adapted.map(adapted.learner.features, adapted.query_encoding) @ self.factors
        logits = self.grouping(support_factors.mean(1))  # (T, N)
        causes = logits.sigmoid().unsqueeze(1)
        n_classes = adapted.query_predictions.shape[-1]
        risks = self._invariant_risks(
            causes * support_factors, _real(support.y, n_classes, self.factors.dtype),
            causes * query_factors, _real(query.y, n_classes, self.factors.dtype),
        )  # fmt: skip
        return {
            "metacrl_disentangle": self.weight * self._entanglement(logits),
            "metacrl_invariance": self.weight * self.invariance * risks.mean(),
        }

    def _entanglement(self, logits: Tensor) -> Tensor:
        overlap = (self.factors.T @ self.factors).triu(1).abs().sum()
        assignment = logits.sigmoid()
        sparsity = (assignment + assignment * F.logsigmoid(logits)).sum(1).mean()
        return self.orthogonality * overlap + self.sparsity * sparsity

    def _invariant_risks(self, c: Tensor, y: Tensor, query_c: Tensor, query_y: Tensor) -> Tensor:
        """Return `R + R'^2` of every task, `(T,)`; factors are `(T, n, N)`, targets `(T, n, outputs)`."""
        n = c.shape[1]
        penalty = self.ridge * torch.eye(c.shape[2], dtype=c.dtype, device=c.device)
        maps = torch.linalg.solve(c.mT @ c / n + penalty, c.mT @ y / n)
        predictions = query_c @ maps
        errors = predictions - query_y
        risk, slope = errors.square().sum(-1).mean(1), 2 * (predictions * errors).sum(-1).mean(1)
        return risk + slope.square()


def _real(y: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    if not y.is_floating_point():
        check_one_class("MetaCRL", y)
    return y if y.is_floating_point() else one_hot(y, n_classes, dtype)
