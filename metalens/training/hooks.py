"""Functions of the user that a training calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metalens.execution.plan import Execution

OnStep = Callable[[int, float], bool | None]
OnValidation = Callable[[int, Mapping[str, float]], bool | None]
OnExecution = Callable[[Execution], None]


@dataclass(frozen=True)
class Hooks:
    """Functions that a training calls; see `fit`.

    Attributes:
        on_step: after each step, with its number and loss; the training ends where it returns true.
        on_validation: after each validation, with the step and the mean scores by metric; the same.
        on_execution: before the first step, with the way the steps are executed.
    """

    on_step: OnStep | None = None
    on_validation: OnValidation | None = None
    on_execution: OnExecution | None = None


NO_HOOKS = Hooks()
