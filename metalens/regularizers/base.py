"""The three hooks by which any method can shape the training of any learner."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.learners import Learner, NetworkLearner
from metalens.networks import Network
from metalens.tasks import Task


class Regularizer(nn.Module):
    """Base of all regularizers: three hooks, each the identity unless overridden.

    A regularizer's own parameters are trained with the meta-parameters. It acts in training only; at test
    time tasks arrive alone and adaptation is the plain learner's.

    Attributes:
        min_meta_batch_size: the smallest number of tasks per batch for which it is defined.
        gathers: where several processes share a batch, it sees the tasks of all of them; others act within
            each process's share.
    """

    min_meta_batch_size: int = 1
    gathers: bool = False

    @classmethod
    def for_learner(cls, learner: Learner, **settings: Any) -> Self:
        """Build it with the sizes that this learner dictates, and the given settings."""
        return cls(**settings)

    def check(self, learner: Learner) -> None:
        """Raise `MetaLensError` with the reason where it cannot act on this learner."""
        network_of(learner, type(self))

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
        """Return scalars by name that tell what it does to a batch; they stand beside the learning curve.

        They are asked for now and then in training, without gradients, of all processes at the same time.
        """
        return {}


def network_of(learner: Learner, regularizer: type[Regularizer]) -> Network:
    """Return the network of a learner.

    Raises:
        MetaLensError: regularizers cannot act on the learner, with the reason.
    """
    if not isinstance(learner, NetworkLearner) or learner.regularizer_refusal is not None:
        raise MetaLensError(
            f"{regularizer.__name__} cannot act on {type(learner).__name__}: {learner.regularizer_refusal}"
        )
    return learner.network
