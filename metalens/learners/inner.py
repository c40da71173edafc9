"""Differentiable optimizers of the inner loop."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from metalens.errors import MetaLensError

InnerOptimizerName = Literal["sgd", "adam"]
Gradients = dict[str, Tensor]

_BETA2, _EPS = 0.999, 1e-8


@dataclass(frozen=True)
class InnerOptimizer:
    """Directions of the inner loop as a differentiable function of the gradients so far.

    `"sgd"`: `m_t = mu m_{t-1} + g_t`, direction `m_t`.
    `"adam"`: `m_t = mu m_{t-1} + (1 - mu) g_t`, `v_t = b v_{t-1} + (1 - b) g_t^2`, direction
    `m_t / (1 - mu^t) / sqrt(v_t / (1 - b^t) + e^2)`, with b = 0.999 and e = 1e-8.

    Args:
        name: `"sgd"` or `"adam"`.
        momentum: mu, from 0 to below 1.
        clip: largest norm of the gradient over all parameters, or `None` for no limit.

    Raises:
        MetaLensError: a setting is out of range.

    >>> optimizer, gradients = InnerOptimizer("sgd", momentum=0.5), {"w": torch.ones(1)}
    >>> _, memory = optimizer(gradients, {}, step=0)
    >>> optimizer(gradients, memory, step=1)[0]["w"]
    tensor([1.5000])

    Source: D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv 1412.6980.
    Deviation: e stands inside the root, so that second derivatives stay finite where a gradient is 0.
    """

    name: InnerOptimizerName = "sgd"
    momentum: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(InnerOptimizerName):
            raise MetaLensError(f"inner_optimizer must be sgd or adam, got {self.name!r}.")
        if not 0 <= self.momentum < 1:
            raise MetaLensError(f"inner_momentum must be 0 or more and below 1, got {self.momentum}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise MetaLensError(f"inner_clip must be above 0 and finite, or None, got {self.clip}.")

    def __call__(
        self, gradients: Gradients, memory: dict[str, Gradients], step: int
    ) -> tuple[Gradients, dict[str, Gradients]]:
        """Return the descent directions and the optimizer state for the next step.

        Args:
            gradients: by name of the parameter.
            memory: the state that the step before returned; `{}` at first.
            step: number of the step, from 0.
        """
        if self.clip is not None:
            gradients = _clipped(gradients, self.clip)
        if self.name == "sgd":
            if self.momentum == 0:
                return gradients, {}
            first = _running(memory.get("first"), gradients, self.momentum, 1.0)
            return first, {"first": first}
        squares = {name: gradient.square() for name, gradient in gradients.items()}
        first = _running(memory.get("first"), gradients, self.momentum, 1 - self.momentum)
        second = _running(memory.get("second"), squares, _BETA2, 1 - _BETA2)
        unbias1, unbias2 = 1 - self.momentum ** (step + 1), 1 - _BETA2 ** (step + 1)
        directions = {
            name: first[name] / unbias1 / torch.sqrt(second[name] / unbias2 + _EPS**2) for name in gradients
        }
        return directions, {"first": first, "second": second}


def _running(before: Gradients | None, new: Gradients, keep: float, take: float) -> Gradients:
    if before is None:
        return {name: take * value for name, value in new.items()}
    return {name: keep * before[name] + take * value for name, value in new.items()}


def _clipped(gradients: Gradients, clip: float) -> Gradients:
    squared_norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()
    scale = clip / squared_norm.clamp(min=clip**2).sqrt()
    return {name: scale * gradient for name, gradient in gradients.items()}
