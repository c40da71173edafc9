"""MAML with learned step sizes for every layer and step, a loss after every step, and a cheap start."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.learners.base import State
from metalens.learners.gradient import InnerSettings, StepSizes
from metalens.learners.maml import MAML
from metalens.networks import Network


class MAMLPlusPlus(MAML):
    """MAML with three of the MAML++ options, which make it more stable.

    - Step sizes `inner_lr * a[p, t]`, one for each parameter tensor p and step t. The factors a, at first 1,
      are learned in the outer loop.
    - Multi-step loss: while progress, the fraction of training completed, is below `multi_step_until`, the
      outer loss is `sum_t v_t L(query; theta_t)`. The weights start equal, `v_t = 1/n`, and shrink linearly
      in favor of the last step, which alone counts in evaluation.
    - Derivative order: inner gradients are constants while progress is below `first_order_until`.

    Args:
        network: see `GradientLearner`.
        multi_step_until: 0 for the loss after the last step only, up to 1.
        first_order_until: 0 for second order throughout, up to 1.
        **settings: see `GradientLearner`; `inner_lr` is the initial step size. At test time a step beyond
            those of training takes the last step size.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import MAMLPlusPlus, mlp
    >>> MAMLPlusPlus(mlp(1, 1, [8]), inner_steps=5).rates.shape
    torch.Size([4, 5])

    Source: A. Antoniou, H. Edwards, A. Storkey, "How to train your MAML", 2019, arXiv 1810.09502.
    Deviations: step sizes are learned in units of the initial one, for which steps of the outer optimizer
    could else be too large; weights of early steps shrink to 0, where the authors' program keeps a small
    rest; no statistics or scales of normalization layers per step (`TransductiveBatchNorm` uses the set at
    hand); no schedule of the outer step size here (see `fit`).
    """

    rates: nn.Parameter

    def __init__(
        self,
        network: Network,
        *,
        multi_step_until: float = 0.1,
        first_order_until: float = 0.0,
        **settings: Unpack[InnerSettings],
    ) -> None:
        for name, share in (("multi_step_until", multi_step_until), ("first_order_until", first_order_until)):
            if not 0 <= share <= 1:
                raise MetaLensError(f"{name} must be from 0 to 1, got {share}.")
        super().__init__(network, **settings)
        self.multi_step_until, self.first_order_until = multi_step_until, first_order_until
        self.set_progress(1.0)

    def set_network(self, network: Network) -> None:
        super().set_network(network)
        example = next(iter(self.adapted_parameters().values()))
        self.rates = nn.Parameter(example.new_ones(len(self.adapted_parameters()), self.inner_steps))

    def set_progress(self, progress: float) -> None:
        self._finished = progress >= max(self.multi_step_until, self.first_order_until)
        self._detaches = progress < self.first_order_until
        remaining = 1 - progress / self.multi_step_until if progress < self.multi_step_until else 0.0
        self._weight_of_early_steps = remaining / self.inner_steps

    @property
    def schedule_finished(self) -> bool:
        return self._finished

    @property
    def detaches_gradients(self) -> bool:
        return self.first_order or self._detaches

    def step_sizes(self, state: State, n_steps: int) -> Sequence[StepSizes]:
        return [
            dict(zip(state, self.inner_lr * self.rates[:, min(step, self.inner_steps - 1)], strict=True))
            for step in range(n_steps)
        ]

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        if not self._uses_early_steps:
            return super().adapt_encoded(z, y)
        _, *early, final = self.descend(self.initial_state(z, y), z, y)
        named = {f"{step}:{name}": value for step, state in enumerate(early) for name, value in state.items()}
        return {**final, **named}

    def weights(self, state: State) -> State:
        return {name: state[name] for name in self.adapted_parameters()}

    def outer_loss(self, state: State, predictions: Tensor, z: Tensor, y: Tensor) -> Tensor:
        final = super().outer_loss(state, predictions, z, y)
        if not self._uses_early_steps:
            return final
        names = self.adapted_parameters()
        early = [
            self.loss(self.predict_encoded({name: state[f"{step}:{name}"] for name in names}, z), y)
            for step in range(self.inner_steps - 1)
        ]
        share = self._weight_of_early_steps
        return share * torch.stack(early).sum() + (1 - share * len(early)) * final

    @property
    def _uses_early_steps(self) -> bool:
        return self.training and self.inner_steps > 1 and self._weight_of_early_steps > 0
