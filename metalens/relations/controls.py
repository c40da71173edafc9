"""Controls: accurate, equal and inaccurate relations."""

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_positive, check_type
from metalens.learners import NetworkLearner
from metalens.relations.base import Relation
from metalens.relations.cosine import Cosine


class Known(Relation):
    """A Gaussian kernel of the descriptors t of two tasks: a control with accurate relations.

        m_ij = exp(-||t_i - t_j||^2 / (2 s^2))

    Args:
        scale: s, in the units of the descriptors. By default `2 s^2` is the variance in the batch, summed
            over descriptors: half the mean squared distance between its tasks.

    Raises:
        MetaLensError: scale is not above 0 and finite; the tasks have no descriptors.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> Known(scale=1.0)(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: ours.
    """

    title = "known relations, by descriptors"

    def __init__(self, *, scale: float | None = None) -> None:
        super().__init__()
        check_positive(self, scale=scale)
        self.scale = scale

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        own = adapted.tasks.descriptors
        if own.shape[-1] == 0:
            raise MetaLensError(
                "Known relations needs tasks with descriptors, got tasks without; let their distribution "
                "return Task(support, query, descriptors), or use another relation, such as Cosine."
            )
        descriptors = adapted.processes.all_gather(own)
        distances = (own.unsqueeze(1) - descriptors).square().sum(-1)
        scale = descriptors.var(0).sum() if self.scale is None else 2 * self.scale**2
        return torch.exp(-distances / (scale + torch.finfo(descriptors.dtype).tiny))  # tasks may be equal


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


class Shuffled(Relation):
    """Another relation, assigned to the wrong tasks at every step: a control with inaccurate relations.

    Every task gets the relations of another, `m'_ij = m_{c(i) c(j)}` with a random cycle c through all tasks.
    Parameters of the relation are trained in this form.

    Args:
        relation: to shuffle, by default `Cosine()`.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> Shuffled(Known())(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: ours.
    """

    def __init__(self, relation: Relation | None = None) -> None:
        super().__init__()
        self.relation = Cosine() if relation is None else relation
        check_type(self.relation, Relation, "Shuffled: relation", "give an object, such as Cosine()")
        self.discriminates, self.signed = self.relation.discriminates, self.relation.signed
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
