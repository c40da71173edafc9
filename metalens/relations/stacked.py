"""Relations by regression: the weights with which the models of other tasks explain a support set."""

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import check_positive, check_type
from metalens.learners import NetworkLearner
from metalens.learners.classification import check_one_class, one_hot
from metalens.relations.base import Relation
from metalens.relations.slots import slot_maps
from metalens.relations.weights import model_weights


class Stacked(Relation):
    """The weights with which the models of the other tasks together predict a support set best.

    With the models `f_p` of the other tasks of the batch and the s support examples of task i,

        m_i = argmin_m (1/s) sum_k || sum_{p != i} m_p f_p(x_ik) - y_ik ||^2 + ridge ||m - m0_i||^2

    which has a closed form. Unlike other relations these are weights, of both signs, that are used as they
    are, and `m_ip` differs from `m_pi`. Of classes, `y` is 1 for the class and 0 for others, and `f_p` are
    the probabilities of task i's classes, whatever their slots in task p, see `slot_maps`.

    Args:
        ridge: how strongly weights are drawn to `m0`, in squared units of the outputs.
        toward: another relation, whose weights of the other tasks are `m0`; by default `1 / (T - 1)` each.

    Raises:
        MetaLensError: ridge is not above 0 and finite; an example has several classes.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> Stacked(ridge=0.1)(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: ours, after L. Breiman, "Stacked regressions", Machine Learning 24, 1996. Deviations: weights of
    both signs, drawn to a mean.
    """

    signed = True

    def __init__(self, *, ridge: float = 1.0, toward: Relation | None = None) -> None:
        super().__init__()
        check_positive(self, ridge=ridge)
        if toward is not None:
            check_type(toward, Relation, "Stacked: toward", "give an object, such as Cosine()")
        self.ridge, self.toward = ridge, toward
        self.title = "regression on the models of other tasks"

    def bind(self, learner: NetworkLearner) -> None:
        if self.toward is not None:
            self.toward.bind(learner)

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        predictions, y = adapted.cross_support_predictions(), adapted.tasks.support.y  # (T, n, s, c)
        if not y.is_floating_point():
            check_one_class("Stacked", y)
            maps = slot_maps(predictions, y.unsqueeze(1), predictions.shape[-1])
            predictions = predictions.softmax(-1) @ maps
            y = one_hot(y, predictions.shape[-1], predictions.dtype)
        itself = adapted.own(torch.eye(adapted.n_all_tasks, dtype=y.dtype, device=y.device))
        others = 1 - itself
        predictions = predictions * others[..., None, None]
        center = others / others.sum(1, keepdim=True)
        if self.toward is not None:
            first = adapted.processes.rank * adapted.n_tasks
            _, center = model_weights(self.toward(adapted), None, first, signed=self.toward.signed)
        return stacked_weights(predictions, y, center, self.ridge) + itself

    def diagnostics(self) -> dict[str, Tensor]:
        return {} if self.toward is None else self.toward.diagnostics()


def stacked_weights(predictions: Tensor, y: Tensor, center: Tensor, ridge: float) -> Tensor:
    """Return the weights of models that together predict a support set best, `(..., P)`; see `Stacked`.

        m = m0 + F (F^T F + s ridge I)^-1 (y - F^T m0)

    with a row of F for each model, its predictions.

    Args:
        predictions: of P models, `(..., P, s, c)`.
        y: targets, `(..., s, c)`.
        center: m0, `(..., P)`.
        ridge: above 0, in squared units of y.

    >>> f = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])
    >>> stacked_weights(f, torch.tensor([[1.0], [0.0]]), torch.tensor([0.5, 0.5]), ridge=0.5)
    tensor([0.7500, 0.2500])
    """
    size = y.shape[-2]
    of_models, target = predictions.flatten(-2), y.flatten(-2).unsqueeze(-1)
    matrix = of_models.mT @ of_models
    matrix = matrix + size * ridge * torch.eye(matrix.shape[-1], dtype=y.dtype, device=y.device)
    left = target - of_models.mT @ center.unsqueeze(-1)
    return center + (of_models @ torch.linalg.solve(matrix, left)).squeeze(-1)
