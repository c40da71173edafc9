"""The plain baseline without meta-learning: every task on its own."""

import copy

from torch import nn

from metalens.learners.base import Loss, task_loss
from metalens.learners.maml import MAML
from metalens.networks import Network


class FromScratch(MAML):
    """Fit the network to each task's support set by Adam, from the same random initialization.

    Nothing is learned across tasks: there is nothing to train, and `fit` returns at once.

    Args:
        network: the network; its initial weights are kept.
        inner_lr: step size of Adam.
        inner_steps: its steps.
        loss: see `Learner`.

    >>> from metalens import FromScratch, mlp
    >>> any(p.requires_grad for p in FromScratch(mlp()).parameters())
    False

    Source: none; D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv 1412.6980, is
    the optimizer.
    """

    regularizer_refusal = "it learns nothing across tasks."

    def __init__(
        self, network: Network, *, inner_lr: float = 0.01, inner_steps: int = 100, loss: Loss = task_loss
    ) -> None:
        super().__init__(
            network,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            first_order=True,
            inner_optimizer="adam",
            inner_momentum=0.9,
            loss=loss,
        )

    def set_network(self, network: Network) -> None:
        super().set_network(copy.deepcopy(network).requires_grad_(False))  # the original stays trainable

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())
