"""What relates the tasks of a batch: a function of the adapted tasks, with or without parameters."""

from __future__ import annotations

from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.learners import NetworkLearner


class Relation(nn.Module):
    """Base of all relations between tasks.

    Attributes:
        discriminates: whether relations can differ between pairs of tasks.
        title: what the relations are, in words.
    """

    discriminates: bool = True
    title: str

    def bind(self, learner: NetworkLearner) -> None:
        """Create the parameters whose size depends on the learner; `Objective` calls it.

        Raises:
            MetaLensError: the tasks of this learner cannot be related so.
        """

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        """Return the relations m of the tasks, `(T, T)`: symmetric, with unit diagonal.

        Where several processes share a batch, these are the rows of a process's own T tasks, with a column
        for each task of all processes.
        """
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars by name that describe the parameters."""
        return {}
