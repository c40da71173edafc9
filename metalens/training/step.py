"""One outer step."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from metalens.samplers import Choice
from metalens.tasks import Task


@dataclass(frozen=True)
class OuterStep:
    """The tasks and losses of an outer step of one objective, or of R side by side.

    Attributes:
        number: of the step, from 1.
        choices: the tasks of each objective, in all processes.
        batches: this process's share of them.
        terms: loss terms by name, means over all processes: scalars, or `(R,)`.
        outer_loss: the sum of this process's terms, which it descends: a scalar, or `(R,)`.
        mean_loss: its mean over all processes, of the same shape.
    """

    number: int
    choices: Sequence[Choice]
    batches: Sequence[Task]
    terms: dict[str, Tensor]
    outer_loss: Tensor
    mean_loss: Tensor

    @property
    def losses(self) -> list[float]:
        """The mean outer loss of each objective."""
        return self.mean_loss.flatten().tolist()

    def terms_of(self, objective: int) -> dict[str, float]:
        """Return the loss terms of an objective, by its number."""
        return {name: term.flatten()[objective].item() for name, term in self.terms.items()}

    def shares_of(self, objective: int) -> dict[str, Tensor]:
        """Return the shares of the terms in the outer loss of an objective, by its number."""
        return {name: (term / self.mean_loss).flatten()[objective] for name, term in self.terms.items()}
