"""Batches of related tasks."""

from typing import Literal

import torch
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.checks import check_choices, check_sizes
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.samplers.base import CandidateSampler, Choice, adapted_candidates, descriptors_of

RelatedBy = Literal["descriptors", "relations"]


class Related(CandidateSampler):
    """Build batches from anchor tasks, each with the tasks that are most related to it.

    The first candidate that is not in the batch is an anchor; of those left, the `neighbors` most related to
    it follow; and so on until the batch is full:

        batch = union over anchors a of {a, the k nearest to a of the candidates that are left}

    Args:
        anchors: A; the batch must have `A (k + 1)` tasks. By default as many as fill the batch; the last one
            may then have fewer neighbors.
        neighbors: k.
        by: the measure of relatedness: `"descriptors"`, small Euclidean distance between the tasks'
            descriptors, or `"relations"`, large m_ij of the objective's relation, as of its TRLearner.
        oversampling: candidates per task of the batch; the more candidates, the nearer the neighbors.

    Raises:
        MetaLensError: a setting is out of range; the batch has another number of tasks; the tasks have no
            descriptors, or the objective no relation. See also `CandidateSampler`.

    >>> import torch
    >>> distances = torch.tensor([[0, 3, 1, 9], [3, 0, 4, 1], [1, 4, 0, 9], [9, 1, 9, 0.0]])
    >>> related_order(distances, neighbors=1, size=4)
    [0, 2, 1, 3]

    Source: none; ours. In random batches hardly any two tasks are related, so relations say nothing.
    """

    def __init__(
        self,
        *,
        anchors: int | None = None,
        neighbors: int = 3,
        by: RelatedBy = "descriptors",
        oversampling: int = 12,
    ) -> None:
        super().__init__(oversampling=oversampling)
        check_sizes(anchors=anchors, neighbors=neighbors)
        check_choices(by=(by, RelatedBy))
        self.anchors, self.neighbors = anchors, neighbors
        self.by: RelatedBy = by
        self.asks_model = by == "relations"

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        super().check(objective, tasks, meta_batch_size)
        size = meta_batch_size if self.anchors is None else self.anchors * (self.neighbors + 1)
        if size != meta_batch_size:
            raise MetaLensError(
                f"Related: {self.anchors} anchors with {self.neighbors} neighbors each make {size} tasks, "
                f"got meta_batch_size={meta_batch_size}; change one."
            )
        if self.by == "relations" and objective.relation is None:
            raise MetaLensError(
                "Related: by='relations' needs a TRLearner among the regularizers, with relations that "
                "discriminate between tasks."
            )
        if self.by == "descriptors":
            descriptors_of(tasks, range(1))

    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        numbers = self.candidates(tasks, step, meta_batch_size)
        if self.by == "descriptors":
            descriptors = descriptors_of(tasks, numbers)
            distances = torch.cdist(descriptors, descriptors)
        else:
            assert objective.relation is not None  # by `check`
            with adapted_candidates(objective, tasks, numbers) as adapted:
                distances = -objective.relation(adapted)
        return Choice([numbers[i] for i in related_order(distances, self.neighbors, meta_batch_size)])


def related_order(distances: Tensor, neighbors: int, size: int) -> list[int]:
    """Return `size` of n tasks: the first that is left, then its nearest that are left, and so on.

    Of equal distances `(n, n)`, the first counts.
    """
    left, order = list(range(len(distances))), []
    while len(order) < size:
        anchor, *others = left
        distance = distances[anchor].tolist()
        group = [anchor, *sorted(others, key=distance.__getitem__)[:neighbors]]
        order += group
        left = [task for task in others if task not in group]
    return order[:size]
