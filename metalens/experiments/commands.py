"""Commands that repeat an experiment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from metalens.experiments import RECIPES
from metalens.experiments.loading import NAMES
from metalens.experiments.recipe import Recipe


def command_of(recipe: Recipe) -> str:
    """Return the command that runs a recipe with its settings.

    >>> from dataclasses import replace
    >>> command_of(replace(RECIPES["demo"], steps=9, seeds=[0, 1], k_shot=10, n_train_tasks=None))
    'metalens run demo --seeds 0 1 --steps 9 --k_shot 10 --n_train_tasks null'
    """
    return shlex.join(["metalens", "run", recipe.name, *options_of(recipe, RECIPES[recipe.name])])


def options_of(experiment: Any, default: Any) -> Sequence[str]:
    """Return the options that turn one experiment into another of the same kind.

    Args:
        experiment: with the settings to be given, a data class.
        default: with the settings that need no option.
    """
    words: list[str] = []
    for setting in (field.name for field in fields(experiment) if field.name not in NAMES):
        value = getattr(experiment, setting)
        if value != getattr(default, setting):
            values = value if isinstance(value, list) else [value]
            words += [f"--{setting}", *(v if isinstance(v, str) else json.dumps(v) for v in values)]
    return words
