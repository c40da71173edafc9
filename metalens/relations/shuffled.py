"""Relations assigned to the wrong tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.learners import NetworkLearner
from metalens.relations.base import Relation
from metalens.relations.cosine import Cosine


class Shuffled(Relation):
    """Another relation, assigned to the wrong tasks at every step: a control with inaccurate relations.

    Every task gets the relations of another, `m'_ij = m_{c(i) c(j)}` with a random cycle c through all tasks.
    Parameters of the relation are trained in this form.

    Args:
        relation: to shuffle, by default `Cosine()`.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> from metalens.relations import Known
    >>> Shuffled(Known())(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: ours.
    """

    def __init__(self, relation: Relation | None = None) -> None:
        super().__init__()
        self.relation = Cosine() if relation is None else relation
        self.discriminates = self.relation.discriminates
        self.title = f"{self.relation.title}, shuffled"

    def bind(self, learner: NetworkLearner) -> None:
        self.relation.bind(learner)

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        matrix = self.relation(adapted)
        # A cycle through all tasks in random order: no task keeps its place.
        cycle = adapted.processes.broadcast(torch.randperm(adapted.n_all_tasks, device=matrix.device))
        other = torch.empty_like(cycle).scatter(0, cycle, cycle.roll(1))
        return adapted.own(adapted.processes.all_gather(matrix)[other][:, other])

    def diagnostics(self) -> dict[str, Tensor]:
        return self.relation.diagnostics()
