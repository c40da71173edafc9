"""The settings of a training."""

import math
from dataclasses import dataclass, fields
from typing import Literal, Required, Self, TypedDict, get_args

from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError, check_number

OuterOptimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]
OnNonfinite = Literal["raise", "skip", "clip"]


class TrainingOptions(TypedDict, total=False):
    """The fields of `TrainingSettings`, as keyword arguments of `fit` and `fit_together`."""

    steps: Required[int]
    meta_batch_size: Required[int]
    outer_lr: float
    outer_optimizer: OuterOptimizer
    schedule: Schedule
    clip_norm: float | None
    on_nonfinite: OnNonfinite
    ema: float | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class OuterSettings:
    """Settings of the outer loop without its seed, as in recipes.

    Args:
        steps: number of outer steps.
        meta_batch_size: tasks per step, of each objective.
        outer_lr: step size of the outer optimizer.
        outer_optimizer: adam, or sgd for plain gradient descent.
        schedule: of the outer step size: constant, or linear or cosine decay to 0.
        clip_norm: largest norm of the outer gradient of each objective; no limit by default.
        on_nonfinite: a step whose loss or gradient is not finite ends training (raise), is left out (skip),
            or sets those entries of the gradient to 0 (clip). Each skipped or clipped step has a row in the
            curve, and the first one gives a warning.
        ema: decay of an exponential moving average of the weights, such as 0.999, which validation scores and
            training ends with; none by default.

    Raises:
        MetaLensError: a setting is out of range.

    >>> OuterSettings(steps=0, meta_batch_size=4)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: steps must be at least 1, got 0.
    """

    steps: int
    meta_batch_size: int
    outer_lr: float = 1e-3
    outer_optimizer: OuterOptimizer = "adam"
    schedule: Schedule = "constant"
    clip_norm: float | None = None
    on_nonfinite: OnNonfinite = "raise"
    ema: float | None = None

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps, meta_batch_size=self.meta_batch_size)
        allowed = {"outer_optimizer": OuterOptimizer, "schedule": Schedule, "on_nonfinite": OnNonfinite}
        for name, choices in allowed.items():
            if getattr(self, name) not in get_args(choices):
                expected = ", ".join(get_args(choices))
                raise MetaLensError(f"{name} must be one of {expected}, got {getattr(self, name)!r}.")
        limits = {} if self.clip_norm is None else {"clip_norm": self.clip_norm}
        for name, rate in {"outer_lr": self.outer_lr, **limits}.items():
            check_number(name, rate)
            if not 0 < rate < math.inf:
                raise MetaLensError(f"{name} must be above 0 and finite, got {rate}.")
        if self.ema is not None:
            check_number("ema", self.ema)
            if not 0 < self.ema < 1:
                raise MetaLensError(f"ema must be between 0 and 1, such as 0.999, or None, got {self.ema}.")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(OuterSettings):
    """Settings of the outer loop.

    Args:
        seed: of random numbers inside training (dropout, regularizers); the tasks have their own seed.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("seed", self.seed, whole=True)

    @classmethod
    def of(cls, options: TrainingOptions) -> Self:
        """Return the settings that were given as keyword arguments.

        Raises:
            MetaLensError: there is no such setting, or one is missing or out of range.

        >>> TrainingSettings.of({"steps": 3, "meta_batch_size": 4, "lr": 0.1})
        Traceback (most recent call last):
        ...
        metalens.errors.MetaLensError: Training has no setting lr; there are steps, meta_batch_size, ...
        """
        known = [field.name for field in fields(cls)]
        if unknown := ", ".join(sorted(options.keys() - set(known))):
            raise MetaLensError(f"Training has no setting {unknown}; there are {', '.join(known)}.")
        for name in ("steps", "meta_batch_size"):
            if name not in options:
                raise MetaLensError(f"Training needs {name}; give a whole number.")
        return cls(**options)
