"""Learned step sizes."""

from collections.abc import Sequence

import torch
from torch import nn

from metalens.learners.base import State
from metalens.learners.gradient import StepSizes
from metalens.learners.maml import MAML
from metalens.networks import Network


class MetaSGD(MAML):
    """MAML with a step size for every single parameter, learned in the outer loop.

    `theta_{t+1} = theta_t - a * grad L(support; theta_t)`, elementwise, with `a` of the shape of theta. The
    step sizes start at `inner_lr` and may take any sign.

    Settings: see `GradientLearner`; `inner_lr` is the initial step size.

    >>> from metalens import MetaSGD, mlp
    >>> [tuple(rate.shape) for rate in MetaSGD(mlp(1, 1, [8]), inner_lr=0.01).rates]
    [(8, 1), (8,), (1, 8), (1,)]

    Source: Z. Li, F. Zhou, F. Chen, H. Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
    2017, arXiv 1707.09835. Deviation: all step sizes start at the same value, not at random ones.
    """

    rates: nn.ParameterList

    def set_network(self, network: Network) -> None:
        super().set_network(network)
        adapted = self.adapted_parameters().values()
        self.rates = nn.ParameterList(torch.full_like(p, self.inner_lr) for p in adapted)

    def step_sizes(self, state: State, n_steps: int) -> Sequence[StepSizes]:
        return [dict(zip(state, self.rates, strict=True))] * n_steps
