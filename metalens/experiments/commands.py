"""Commands that repeat an experiment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from metalens.experiments import RECIPES
from metalens.experiments.recipe import Recipe


def command_of(recipe: Recipe) -> str:
    """Return the command that runs a recipe with its settings.

    >>> from dataclasses import replace
    >>> demo = RECIPES["demo"]
    >>> command_of(replace(demo, steps=9, seeds=[0, 1], n_train_tasks=None))
    'metalens run demo --seeds 0 1 --steps 9 --n_train_tasks null'
    >>> command_of(replace(demo, machine=replace(demo.machine, compile=False)))
    'metalens run demo --machine.compile false'
    """
    return shlex.join(["metalens", "run", recipe.name, *options_of(recipe, RECIPES[recipe.name])])


def options_of(experiment: Any, default: Any, prefix: str = "") -> Sequence[str]:
    """Return the command-line options that turn the dataclass `default` into `experiment`."""
    words: list[str] = []
    for name in (field.name for field in fields(experiment)):
        value, usual = getattr(experiment, name), getattr(default, name)
        if is_dataclass(value):
            words += options_of(value, usual, f"{prefix}{name}.")
        elif value != usual:
            values = value if isinstance(value, list) else [value]
            words += [f"--{prefix}{name}", *(v if isinstance(v, str) else json.dumps(v) for v in values)]
    return words
