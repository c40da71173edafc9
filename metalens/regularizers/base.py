"""Base of the regularizers: hooks that change the network, the tasks or the loss of any learner."""

from collections.abc import Iterable

from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.learners import NetworkLearner
from metalens.networks import Network
from metalens.relations import Relation
from metalens.settings import SettingsModule
from metalens.tasks import Task


class Regularizer(SettingsModule):
    """Base of all regularizers: three hooks, each the identity unless overridden.

    Its own parameters are trained with the meta-parameters. It acts in training only.

    Attributes:
        min_meta_batch_size: smallest number of tasks per batch.
        gathers: whether it needs the tasks of all processes that share a batch, not only the process's own.
        relation: of the tasks of a batch, or `None`.
    """

    min_meta_batch_size: int = 1
    gathers: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.relation: Relation | None = None

    def bind(self, learner: NetworkLearner) -> None:
        """Check the learner, and create the parameters whose size depends on it; `Objective` calls it.

        Raises:
            MetaLensError: the regularizer does not support this learner.
        """
        if self.relation is not None:
            self.relation.bind(learner)

    def check_meta_batch_size(self, meta_batch_size: int) -> None:
        """Raise `MetaLensError` if a batch has fewer than `min_meta_batch_size` tasks."""
        if meta_batch_size < self.min_meta_batch_size:
            raise MetaLensError(
                f"{type(self).__name__} needs a meta-batch of at least {self.min_meta_batch_size} tasks, "
                f"got {meta_batch_size}."
            )

    def wrap_network(self, network: Network) -> Network:
        """Change the network, once, at assembly."""
        return network

    def check_tasks(self, tasks: Task) -> None:
        """Refuse a batch by its values, as far as it is on the CPU: elsewhere they would be waited for.

        Raises:
            MetaLensError: the regularizer cannot act on these tasks.
        """

    def transform_tasks(self, tasks: Task) -> Task:
        """Change a batch of tasks before adaptation."""
        return tasks

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """Return weighted loss terms by name; `"query"` replaces the query loss, others are added."""
        return {}

    def diagnostics(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """Return scalars by name to log beside the learning curve.

        Training computes them at intervals, without gradients, in all processes at the same time.
        """
        return {}


def relation_of(regularizers: Iterable[Regularizer]) -> Relation | None:
    """Return the first relation that discriminates between tasks, or `None`.

    >>> relation_of([Regularizer()]) is None
    True
    """
    relations = (each.relation for each in regularizers)
    return next((relation for relation in relations if relation is not None and relation.discriminates), None)
