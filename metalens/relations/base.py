"""Relations between the tasks of a batch: functions of the adapted tasks, with or without parameters."""

from __future__ import annotations

import math
from typing import get_args

from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.learners import NetworkLearner


class Relation(nn.Module):
    """Base of all relations between tasks.

    Attributes:
        discriminates: whether relations can differ between pairs of tasks.
        title: a short description of the relations.
    """

    discriminates: bool = True
    title: str

    def bind(self, learner: NetworkLearner) -> None:
        """Create the parameters whose size depends on the learner; `Objective` calls it.

        Raises:
            MetaLensError: the relation does not support this learner.
        """

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        """Return the relations m of the tasks, `(T, T)`: symmetric, with unit diagonal.

        If several processes share a batch, the rows are the process's own T tasks and the columns the tasks
        of all processes.
        """
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars by name that describe the parameters."""
        return {}


def check_positive(owner: object, **values: float | None) -> None:
    """Raise `MetaLensError` if a setting of an object is not above 0 and finite; `None` is allowed."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise MetaLensError(f"{type(owner).__name__}: {name} must be above 0 and finite, got {value}.")


def check_nonnegative(owner: object, **values: float) -> None:
    """Raise `MetaLensError` if a setting of an object is negative or not finite."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise MetaLensError(f"{type(owner).__name__}: {name} must be 0 or more and finite, got {value}.")


def check_counts(owner: object, **values: int | None) -> None:
    """Raise `MetaLensError` if a setting of an object is below 1; `None` is allowed."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise MetaLensError(f"{type(owner).__name__}: {name} must be at least 1, got {value}.")


def check_choice(owner: object, name: str, value: str, choices: object) -> None:
    """Raise `MetaLensError` if a setting of an object is not among the choices of a `Literal`."""
    if value not in get_args(choices):
        raise MetaLensError(
            f"{type(owner).__name__}: {name} must be one of {', '.join(get_args(choices))}, got {value!r}."
        )
