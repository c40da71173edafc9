"""Uniform sampling of tasks."""

from metalens.data import TaskDistribution
from metalens.objective import Objective
from metalens.samplers.base import Choice, TaskSampler


class Uniform(TaskSampler):
    """Take the tasks of the distribution in turn, with equal weights; the default.

    Step n has tasks `n T ... (n + 1) T - 1` of the distribution, whose order is already random.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> Uniform().choose(Objective(MAML(mlp())), Sinusoid(), step=2, meta_batch_size=4).numbers
    range(8, 12)

    Source: the sampling of C. Finn and others, 2017, arXiv 1703.03400.
    """

    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        return Choice(range(step * meta_batch_size, (step + 1) * meta_batch_size))
