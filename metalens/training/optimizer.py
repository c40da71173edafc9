"""The optimizer of the outer loop and the schedule of its step size: by the settings, or of one's own."""

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from metalens.errors import MetaLensError, check_type
from metalens.objective import Objective, trained_parameters
from metalens.training.checkpoint import State, differences
from metalens.training.settings import TrainingOptions, TrainingSettings


@dataclass(frozen=True)
class OwnOptimizer:
    """Functions that make the optimizer and the scheduler of a training; see `fit`.

    Attributes:
        optimizer: `objective -> optimizer`; by default that of the settings.
        scheduler: `optimizer -> scheduler`, which is stepped after each outer step; the same.
    """

    optimizer: Callable[[Objective], Optimizer] | None = None
    scheduler: Callable[[Optimizer], LRScheduler] | None = None

    def check_options(self, options: TrainingOptions) -> None:
        """Raise `MetaLensError` if settings were given that the functions replace.

        >>> OwnOptimizer(lambda objective: torch.optim.SGD(objective.parameters())).check_options(
        ...     {"steps": 1, "meta_batch_size": 1, "outer_lr": 0.1}
        ... )
        Traceback (most recent call last):
        ...
        metalens.errors.MetaLensError: optimizer replaces the setting outer_lr; leave out one of them.
        """
        replaced = {"optimizer": ("outer_lr", "outer_optimizer"), "scheduler": ("schedule",)}
        for name, settings in replaced.items():
            if getattr(self, name) is None:
                continue
            make = getattr(self, name)
            # A scheduler's class is such a function, and an optimizer's takes parameters.
            if not callable(make) or (name == "optimizer" and isinstance(make, type)):
                remedy = (
                    "give a function that makes one, such as lambda objective: AdamW(objective.parameters())"
                )
                raise MetaLensError(f"{name} must be a function, got {type(make).__name__}; {remedy}.")
            if given := ", ".join(setting for setting in settings if setting in options):
                raise MetaLensError(f"{name} replaces the setting {given}; leave out one of them.")


BY_SETTINGS = OwnOptimizer()


class Descent:
    """The optimizer and the scheduler of a training.

    Args:
        settings: of the training.
        module: computes the outer step.
        objective: what is trained, of several the first.
        own: makes them of a single objective in place of the settings.
        fused: whether the optimizer of the settings is one kernel.

    Attributes:
        optimizer: as PyTorch has it.
        scheduler: of its step sizes.

    Raises:
        MetaLensError: something else was made, parameters are not those of the objective, or a step would
            need more than the gradient.

    >>> from metalens import MAML, mlp
    >>> objective = Objective(MAML(mlp()))
    >>> settings = TrainingSettings(steps=9, meta_batch_size=4, outer_lr=0.1)
    >>> Descent(settings, objective, objective, BY_SETTINGS, fused=False).optimizer.param_groups[0]["lr"]
    0.1
    """

    def __init__(
        self, settings: TrainingSettings, module: nn.Module, objective: Objective, own: OwnOptimizer, *,
        fused: bool,
    ) -> None:  # fmt: skip
        self.optimizer = (
            _of_settings(settings, module, fused=fused) if own.optimizer is None else own.optimizer(objective)
        )
        check_type(self.optimizer, Optimizer, "What optimizer returns", "return one of torch.optim")
        known = set(module.parameters())
        if not all(p in known for group in self.optimizer.param_groups for p in group["params"]):
            raise MetaLensError(
                "The optimizer has parameters that are not of the objective; make it of those of the "
                "argument, as in lambda objective: AdamW(objective.parameters())."
            )
        self.scheduler = (own.scheduler or _schedule(settings))(self.optimizer)
        check_type(self.scheduler, LRScheduler, "What scheduler returns", "return one of torch.optim's")
        if self.scheduler.optimizer is not self.optimizer:
            raise MetaLensError(
                "The scheduler is of another optimizer; make it of the argument, as in lambda optimizer: "
                "StepLR(optimizer, 100)."
            )
        for part in (self.optimizer, self.scheduler):
            _check_step(part)
        self._made = _description(self.optimizer, self.scheduler)

    def keep(self, places: Sequence[int], renewed: Mapping[Any, nn.Parameter]) -> None:
        """Go on with some of the replicas, whose new parameters are given by the old ones."""
        for group in self.optimizer.param_groups:
            group["params"] = [renewed[parameter] for parameter in group["params"]]
        state, kept = self.optimizer.state, list(places)
        states: dict[Any, Any] = {
            renewed[parameter]: {
                name: value[kept] if isinstance(value, Tensor) and value.dim() else value
                for name, value in of_one.items()
            }
            for parameter, of_one in state.items()
        }
        state.clear()
        state.update(states)

    def state(self) -> State:
        """Return everything on which later steps depend."""
        states = {"optimizer": self.optimizer.state_dict(), "schedule": self.scheduler.state_dict()}
        return {"made": self._made, **states}

    def load(self, state: State) -> None:
        """Restore what `state` returned.

        Raises:
            MetaLensError: it is of another optimizer or scheduler.
        """
        if changes := differences(state["made"], self._made):
            raise MetaLensError(f"The optimizer or scheduler is another one: {changes}; make both alike.")
        for part, saved in ((self.optimizer, state["optimizer"]), (self.scheduler, state["schedule"])):
            part.load_state_dict(_like(part.state_dict(), saved))


def _of_settings(settings: TrainingSettings, module: nn.Module, *, fused: bool) -> Optimizer:
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.outer_optimizer]
    return make(trained_parameters(module), lr=settings.outer_lr, fused=fused)


def _schedule(settings: TrainingSettings) -> Callable[[Optimizer], LRScheduler]:
    factors = {
        "constant": lambda step: 1.0,
        "linear": lambda step: 1 - step / settings.steps,
        "cosine": lambda step: (1 + math.cos(math.pi * step / settings.steps)) / 2,
    }
    return lambda optimizer: LambdaLR(optimizer, factors[settings.schedule])


def _check_step(part: Any) -> None:
    """Raise `MetaLensError` if a step needs something apart from the gradient."""
    _, *others = inspect.signature(type(part).step).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if needed := [p.name for p in others if p.kind in kinds and p.default is inspect.Parameter.empty]:
        raise MetaLensError(
            f"{type(part).__name__} needs {', '.join(needed)} for a step, which an outer step does not have; "
            "use another one."
        )


def _description(optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, str]:
    """Return the class and the settings of both as text, to compare those of a resumed training."""
    found = {"optimizer": type(optimizer).__name__, "scheduler": type(scheduler).__name__}
    for number, group in enumerate(optimizer.state_dict()["param_groups"]):
        found |= {f"group {number}: {name}": _text(value) for name, value in group.items()}
    return found | {f"scheduler: {name}": _text(value) for name, value in scheduler.state_dict().items()}


def _text(value: Any) -> str:
    return json.dumps(value, default=lambda other: type(other).__name__)


def _like(template: Any, saved: Any) -> Any:
    """Return a saved tree with the tuples and counters of another one, which JSON does not have.

    >>> _like({"betas": (0.9, 0.99)}, {"betas": [0.8, 0.9]})
    {'betas': (0.8, 0.9)}
    """
    if isinstance(saved, dict) and isinstance(template, dict):
        found = {name: _like(template.get(name), value) for name, value in saved.items()}
        return Counter(found) if isinstance(template, Counter) else found
    if isinstance(saved, list) and isinstance(template, list | tuple):
        padded = [*template, *[None] * (len(saved) - len(template))]
        return type(template)(_like(*pair) for pair in zip(padded, saved, strict=False))
    return saved
