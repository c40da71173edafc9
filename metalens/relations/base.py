"""Relations between the tasks of a batch: functions of the adapted tasks, with or without parameters."""

from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.learners import NetworkLearner
from metalens.settings import SettingsModule


class Relation(SettingsModule):
    """Base of all relations between tasks.

    Attributes:
        discriminates: whether relations can differ between pairs of tasks.
        signed: whether a row holds the weights of the other tasks' models, of both signs, to be used as they
            are; otherwise negative relations count as 0, and those of a task are divided by their sum.
        title: a short description of the relations.
    """

    discriminates: bool = True
    signed: bool = False
    title: str

    def bind(self, learner: NetworkLearner) -> None:
        """Create the parameters whose size depends on the learner; `Objective` calls it.

        Raises:
            MetaLensError: the relation does not support this learner.
        """

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        """Return the relations m of the tasks, `(T, T)`, with unit diagonal; symmetric unless `signed`.

        If several processes share a batch, the rows are the process's own T tasks and the columns the tasks
        of all processes.
        """
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars by name that describe the parameters."""
        return {}
