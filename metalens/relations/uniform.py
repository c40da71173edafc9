"""Equal relations between all tasks."""

from __future__ import annotations

from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.relations.base import Relation


class Uniform(Relation):
    """All relations 1: a control without relations.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> Uniform()(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(2)))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    discriminates = False
    title = "uniform relations"

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        return adapted.query_predictions.new_ones(adapted.n_tasks, adapted.n_all_tasks)
