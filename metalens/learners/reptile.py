"""Move the initialization toward adapted weights."""

import torch
from torch import Tensor

from metalens.learners.base import Loss, State, task_loss
from metalens.learners.gradient import last
from metalens.learners.inner import InnerOptimizerName
from metalens.learners.maml import MAML
from metalens.networks import Network


class Reptile(MAML):
    """Move the initialization toward the weights adapted to each task's data.

    `theta <- theta + epsilon (theta~ - theta)`, theta~ being theta after k steps on the support set and k
    more on the query set. `outer_loss` is `||theta - theta~||^2 / 2` with theta~ held constant, so that its
    gradient is `theta - theta~`. The step size of the outer optimizer is epsilon: with
    `fit(outer_optimizer="sgd", schedule="linear")` the update is the published one.

    Args:
        network: see `GradientLearner`.
        inner_lr: step size of the inner loop.
        inner_steps: k.
        test_inner_steps: steps on the support set at test time; by default as in training.
        inner_optimizer: `"sgd"` or `"adam"`.
        inner_momentum: see `GradientLearner`; 0 is the published choice of Adam's beta_1.
        loss: see `Learner`.

    Raises:
        MetaLensError: a setting is out of range, or the network has stages that all tasks share.

    >>> from metalens import Objective, Reptile, Sinusoid, mlp
    >>> objective = Objective(Reptile(mlp(), inner_lr=0.01, inner_optimizer="sgd"))
    >>> bool(objective(Sinusoid().batch(range(4)))["query"] > 0)
    True

    Source: A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning Algorithms", 2018,
    arXiv 1803.02999. Deviation: the mini-batches of the inner loop are the support set, then the query set,
    not random draws from all data of the task; Adam's state is reset between the two.
    """

    trains_shared_stages = False
    regularizer_refusal = (
        "it has no outer loss that a term could be added to; it moves the initialization toward adapted "
        "weights. Use MAML(first_order=True)."
    )

    def __init__(
        self,
        network: Network,
        *,
        inner_lr: float = 0.001,
        inner_steps: int = 5,
        test_inner_steps: int | None = None,
        inner_optimizer: InnerOptimizerName = "adam",
        inner_momentum: float = 0.0,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(
            network,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            first_order=True,
            inner_optimizer=inner_optimizer,
            inner_momentum=inner_momentum,
            loss=loss,
        )

    def outer_loss(self, state: State, predictions: Tensor, z: Tensor, y: Tensor) -> Tensor:
        start = {name: value.detach() for name, value in state.items()}
        end = last(self.descend(start, z, y))
        squares = [(p - end[name].detach()).square().sum() for name, p in self.adapted_parameters().items()]
        return torch.stack(squares).sum() / 2
