"""T-Net with a learned mask of the units that adapt."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from metalens.errors import check_positive
from metalens.learners.base import State
from metalens.learners.gradient import InnerSettings, StepSizes
from metalens.learners.tnet import TNet
from metalens.networks import Network


class MTNet(TNet):
    """T-Net whose inner loop changes a learned, random subset of each layer's units.

    For every task a mask is drawn for the rows of each W,
    `m = sigmoid((zeta + log u - log(1 - u)) / temperature)`, `u ~ U(0, 1)`, which is a Gumbel-softmax over
    "adapts" and "stays"; the inner step is `W <- W - alpha * m * grad_W L`. The logits zeta, one for each
    unit, are learned in the outer loop. At test time masks are not drawn: `u = 1/2`.

    Args:
        network: see `GradientLearner`.
        mask_temperature: the lower, the closer masks come to 0 or 1.
        **settings: see `GradientLearner`.

    Raises:
        MetaLensError: a setting is out of range; see also `TNet`.

    >>> from metalens import MTNet, mlp
    >>> [tuple(zeta.shape) for zeta in MTNet(mlp(1, 1, [8])).mask_logits]
    [(8,), (1,)]

    Source: Y. Lee, S. Choi, "Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace", 2018,
    arXiv 1801.05558. Deviations: those of `TNet`; biases are not masked; soft masks also in the forward pass;
    no draw at test time.
    """

    mask_logits: nn.ParameterList

    def __init__(
        self, network: Network, *, mask_temperature: float = 1.0, **settings: Unpack[InnerSettings]
    ) -> None:
        check_positive(self, mask_temperature=mask_temperature)
        super().__init__(network, **settings)
        self.mask_temperature = mask_temperature

    def set_network(self, network: Network) -> None:
        super().set_network(network)
        self.mask_logits = nn.ParameterList(t.new_zeros(len(t)) for t in self.transforms)

    def step_sizes(self, state: State, n_steps: int) -> Sequence[StepSizes]:
        sizes: dict[str, Tensor | float] = dict.fromkeys(state, self.inner_lr)
        for name, logits in zip(self._transformed, self.mask_logits, strict=True):
            rows = self._mask(logits).view(-1, *[1] * (state[name].dim() - 1))
            sizes[name] = self.inner_lr * rows
        return [sizes] * n_steps

    def _mask(self, logits: Tensor) -> Tensor:
        if not self.training:
            return torch.sigmoid(logits / self.mask_temperature)
        limits = torch.finfo(logits.dtype)
        u = torch.rand_like(logits).clamp(limits.tiny, 1 - limits.eps)
        return torch.sigmoid((logits + torch.logit(u)) / self.mask_temperature)
