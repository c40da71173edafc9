"""Task-agnostic meta-learning: an initial model without preference for any task."""

import math
from typing import Literal

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_choice, check_nonnegative, check_positive
from metalens.learners import GradientLearner, NetworkLearner
from metalens.regularizers.base import Regularizer

Measure = Literal["entropy", "theil", "generalized_entropy", "atkinson", "gini", "variance_of_logs"]


class TAML(Regularizer):
    """Keep the initial model unbiased: undecided between classes, or equally bad at all tasks of a batch.

    `"entropy"` (classification): high entropy of the initial model f, low entropy of the adapted model f_i,

        weight * (1/T) sum_i [ H_i(f_i) - H_i(f) ],  H_i(f) = -(1/q) sum_j sum_c p_jc ln p_jc

    with `p_j = softmax(f(x_ij))` for the queries j of task i.

    All other measures: `weight * I(l_1 ... l_T)`, the inequality of the initial model's losses
    `l_i = L(query_i; f)`. With the shares `r_i = l_i / mean(l)`:

    - `"theil"`: `(1/T) sum_i r_i ln r_i`
    - `"generalized_entropy"`: `(1/T) sum_i (r_i^alpha - 1) / (alpha (alpha - 1))`; for alpha = 1 it is the
      Theil index, for alpha = 0 `-(1/T) sum_i ln r_i`
    - `"atkinson"`: `1 - ((1/T) sum_i r_i^(1 - epsilon))^(1 / (1 - epsilon))`; for epsilon = 1 one minus the
      geometric mean of r
    - `"gini"`: `(1 / (2 T^2)) sum_ij |r_i - r_j|`
    - `"variance_of_logs"`: `(1/T) sum_i (ln l_i - mean(ln l))^2`

    Args:
        weight: strength of the term.
        measure: one of the above.
        alpha: of the generalized entropy index; larger values give large losses more weight.
        epsilon: of the Atkinson index, above 0; larger values give small losses more weight.

    Raises:
        MetaLensError: a setting is out of range; the learner has no initial model; real targets with
            `"entropy"`; a meta-batch below 2 with an inequality.

    >>> from metalens import MAML, Objective, Sinusoid, TAML, mlp
    >>> objective = Objective(MAML(mlp()), [TAML(weight=0.1, measure="theil")])
    >>> sorted(objective(Sinusoid().batch(range(4))))
    ['query', 'taml']

    Source: M. A. Jamal, G.-J. Qi, "Task-Agnostic Meta-Learning for Few-shot Learning", 2019,
    arXiv 1805.07722. Choices of this implementation: entropies and initial losses are those of the query set;
    losses, which must not be negative, count as at least the smallest normal number; all default values.
    """

    def __init__(
        self, *, weight: float = 0.1, measure: Measure = "theil", alpha: float = 2.0, epsilon: float = 0.5
    ) -> None:
        super().__init__()
        check_choice(self, "measure", measure, Measure)
        check_nonnegative(self, weight=weight)
        check_positive(self, epsilon=epsilon)
        if not math.isfinite(alpha):
            raise MetaLensError(f"TAML: alpha must be finite, got {alpha}.")
        self.weight, self.alpha, self.epsilon = weight, alpha, epsilon
        self.measure: Measure = measure
        self.min_meta_batch_size = 1 if measure == "entropy" else 2

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        if not isinstance(learner, GradientLearner):
            raise MetaLensError(
                f"TAML needs an initial model, which {type(learner).__name__} has not: it does not adapt by "
                "gradient steps; use a learner such as MAML or ANIL."
            )

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        y = adapted.tasks.query.y
        if self.measure == "entropy":
            if y.is_floating_point():
                raise MetaLensError("TAML: measure='entropy' is for classification, got real targets.")
            term = _entropy(adapted.query_predictions) - _entropy(_initial_predictions(adapted))
        else:
            losses = adapted.map(adapted.learner.loss, _initial_predictions(adapted), y)
            term = self._inequality(losses.clamp(min=torch.finfo(losses.dtype).tiny))
        return {"taml": self.weight * term}

    def _inequality(self, losses: Tensor) -> Tensor:
        shares = losses / losses.mean()
        if self.measure == "theil":
            return _generalized_entropy(shares, alpha=1.0)
        if self.measure == "generalized_entropy":
            return _generalized_entropy(shares, self.alpha)
        if self.measure == "atkinson":
            if self.epsilon == 1:
                return 1 - shares.log().mean().exp()
            return 1 - (shares ** (1 - self.epsilon)).mean() ** (1 / (1 - self.epsilon))
        if self.measure == "gini":
            return (shares.unsqueeze(0) - shares.unsqueeze(1)).abs().mean() / 2
        return losses.log().var(correction=0)


def _initial_predictions(adapted: AdaptedTasks) -> Tensor:
    """Return the initial model's predictions on each task's queries, `(T, q, c)`."""
    learner = adapted.learner
    assert isinstance(learner, GradientLearner)  # by `bind`

    def predict(support: Tensor, y: Tensor, query: Tensor) -> Tensor:
        return learner.predict_encoded(learner.initial_state(support, y), query)

    return adapted.map(predict, adapted.support_encoding, adapted.tasks.support.y, adapted.query_encoding)


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(2)
    return -(log_p.exp() * log_p).sum(2).mean()


def _generalized_entropy(shares: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return -shares.log().mean()
    if alpha == 1:
        return (shares * shares.log()).mean()
    return (shares**alpha - 1).mean() / (alpha * (alpha - 1))
