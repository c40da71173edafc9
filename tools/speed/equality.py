"""Before anything is timed: everybody must compute the same step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.speed.clone_loop import CloneLoop
from tools.speed.implementation import Implementation
from tools.speed.workloads import Workload

STEPS = 3  # of Adam, before weights are compared
# Relative, in single precision; normalization with channels last alone makes 1e-3 of the gradient.
TOLERANCES = {"loss": 1e-5, "gradient": 5e-3, "weights": 1e-1}


class DiffersError(Exception):
    """An implementation computes something else; the message is one sentence."""


@dataclass(frozen=True)
class Reference:
    """The first steps of a workload in double precision, by the loop in plain PyTorch.

    Attributes:
        loss: the first outer loss.
        gradient: the first meta-gradient.
        start: the weights before the first step.
        end: the weights after the last one.
    """

    loss: float
    gradient: list[Tensor]
    start: list[Tensor]
    end: list[Tensor]

    @classmethod
    def of(cls, workload: Workload) -> Reference:
        """Compute it."""
        loop = CloneLoop(workload, dtype=torch.float64)
        start = loop.parameters()
        loss, gradient = loop.first_step()
        loop.run(STEPS - 1)
        return cls(loss, gradient, start, loop.parameters())

    def errors(self, implementation: Implementation) -> dict[str, float]:
        """Make the first steps of an implementation, and return its relative errors.

        They are norms over all parameters together; that of the weights is relative to the way they went.
        Left out of the weights are entries whose first gradient is next to zero, such as biases before a
        normalization: Adam's first steps are as long as any other where rounding decides upon the sign.
        """
        loss, gradient = implementation.first_step()
        implementation.run(STEPS - 1)
        exact, start, end = flat(self.gradient), flat(self.start), flat(self.end)
        decided = exact.abs() > 1e-3 * exact.square().mean().sqrt()
        return {
            "loss": abs(loss - self.loss) / abs(self.loss),
            "gradient": distance(flat(gradient), exact) / exact.norm().item(),
            "weights": distance(flat(implementation.parameters())[decided], end[decided])
            / distance(start[decided], end[decided]),
        }

    def check(self, name: str, implementation: Implementation) -> dict[str, float]:
        """Return the errors.

        Raises:
            DiffersError: one is above its tolerance.
        """
        errors = self.errors(implementation)
        for quantity, error in errors.items():
            if not error <= TOLERANCES[quantity]:
                raise DiffersError(
                    f"{name} does not compute the same {quantity}: relative error {error:.1e} against the "
                    f"reference in double precision, and {TOLERANCES[quantity]:.0e} is allowed."
                )
        return errors


def flat(tensors: list[Tensor]) -> Tensor:
    """Return all numbers in one row."""
    return torch.cat([t.double().flatten().cpu() for t in tensors])


def distance(one: Tensor, other: Tensor) -> float:
    """Return the Euclidean distance."""
    return (one - other).norm().item()
