"""The three hooks by which any method can shape the training of any learner."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.learners import NetworkLearner
from metalens.networks import Network
from metalens.relations import Relation
from metalens.tasks import Task


class Regularizer(nn.Module):
    """Base of all regularizers: three hooks, each the identity unless overridden.

    A regularizer's own parameters are trained with the meta-parameters. It acts in training only; at test
    time tasks arrive alone and adaptation is the plain learner's.

    Attributes:
        min_meta_batch_size: the smallest number of tasks per batch for which it is defined.
        gathers: where several processes share a batch, it sees the tasks of all of them; others act within
            each process's share.
        relation: what relates the tasks of a batch, or `None`.
    """

    min_meta_batch_size: int = 1
    gathers: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.relation: Relation | None = None

    def bind(self, learner: NetworkLearner) -> None:
        """Check the learner, and create the parameters whose size depends on it; `Objective` calls it.

        Raises:
            MetaLensError: it cannot act on this learner.
        """
        if self.relation is not None:
            self.relation.bind(learner)

    def check_meta_batch_size(self, meta_batch_size: int) -> None:
        """Raise `MetaLensError` where a batch has too few tasks for it."""
        if meta_batch_size < self.min_meta_batch_size:
            raise MetaLensError(
                f"{type(self).__name__} needs a meta-batch of at least {self.min_meta_batch_size} tasks, "
                f"got {meta_batch_size}."
            )

    def wrap_network(self, network: Network) -> Network:
        """Change the network, once, at assembly."""
        return network

    def transform_tasks(self, tasks: Task) -> Task:
        """Change a batch of tasks before adaptation."""
        return tasks

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """Return weighted loss terms by name; `"query"` replaces the query loss, others are added."""
        return {}

    def diagnostics(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """Return scalars by name that describe its effect on a batch, shown beside the learning curve.

        Training computes them now and then, without gradients, in all processes at the same time.
        """
        return {}


def relation_of(regularizers: Iterable[Regularizer]) -> Relation | None:
    """Return the first relation that discriminates between tasks, or `None`.

    >>> relation_of([Regularizer()]) is None
    True
    """
    relations = (each.relation for each in regularizers)
    return next((relation for relation in relations if relation is not None and relation.discriminates), None)
