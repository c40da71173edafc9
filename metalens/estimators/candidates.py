"""What can adapt to a task: the meta-learner, and the classical models that stand beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metalens.learners import AdaptedModel, Learner
from metalens.tasks import Examples

_AT_A_TIME = 2**22  # numbers in inputs that are predicted for together; bounds memory


@dataclass(frozen=True)
class Candidate:
    """Learners of one kind, whose predictions are averaged.

    Attributes:
        name: what people call it.
        learners: one for each seed; a classical model has no seeds, and is one.
    """

    name: str
    learners: tuple[Learner, ...]

    @torch.no_grad()
    def adapt(self, support: Examples) -> Ensemble:
        """Return the models that are adapted to a support set."""
        return Ensemble(tuple(learner(support) for learner in self.learners))


@dataclass(frozen=True)
class Ensemble:
    """Models adapted to one task: call them on inputs.

    Attributes:
        models: one for each seed.
    """

    models: tuple[AdaptedModel, ...]

    @torch.no_grad()
    def __call__(self, x: Tensor, *, classes: bool = False) -> Tensor:
        """Return predictions, the mean over the models, in double precision on the CPU.

        Args:
            x: inputs `(n, *input_shape)`.
            classes: whether the models give logits.

        Returns:
            Targets `(n, c)`, or probabilities of classes.
        """
        parts = []
        for part in x.split(max(1, _AT_A_TIME // max(1, x[0].numel()))):
            of_all = torch.stack([model(part.float()).cpu().double() for model in self.models])
            parts.append((of_all.softmax(-1) if classes else of_all).mean(0))
        return torch.cat(parts)
