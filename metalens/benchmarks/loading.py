"""A finished run's trained objectives, from its manifest and weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from metalens.benchmarks import RECIPES
from metalens.benchmarks.arms import Arm, arms_of
from metalens.benchmarks.calls import parse_calls
from metalens.benchmarks.recipe import Recipe
from metalens.errors import MetaLensError
from metalens.objective import Objective


def recipe_of(manifest: dict[str, Any]) -> Recipe:
    """Return the recipe of a run with the settings that it had.

    Args:
        manifest: of a finished run.

    Raises:
        MetaLensError: this version has no such recipe, or other settings.
    """
    name, settings = manifest["recipe"], manifest["configuration"]
    if name not in RECIPES:
        raise MetaLensError(f"The run is of the recipe {name!r}, which is not among {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    if unknown := settings.keys() - {field.name for field in fields(recipe)}:
        raise MetaLensError(
            f"The run is of another version of MetaLens: {name} has no {', '.join(sorted(unknown))}."
        )
    try:
        return replace(recipe, **settings)
    except TypeError as error:  # a text where a number belongs
        raise MetaLensError(f"The manifest of the run is damaged ({error}); run it again.") from error


def arm_of(recipe: Recipe, text: str | None) -> Arm:
    """Return the arm that a text means: by its name, its regularizers alone, or its number from 0.

    Without a text, it is the first arm whose relations between tasks are not all 1, else the first.

    Raises:
        MetaLensError: none or several arms are meant.

    >>> str(arm_of(RECIPES["demo"], "TRLearner")), str(arm_of(RECIPES["demo"], "0"))
    ('MAML + TRLearner', 'MAML')
    """
    arms = arms_of(recipe)
    if text is None:
        return next((arm for arm in arms if _relates(arm)), arms[0])
    meant = [
        arm
        for number, arm in enumerate(arms)
        if "".join(text.split())
        in ("".join(name.split()) for name in (str(arm), arm.regularizers, str(number)))
    ]
    if len(meant) != 1:
        names = "; ".join(f"{number}: {arm}" for number, arm in enumerate(arms))
        raise MetaLensError(f"{'Several arms are' if meant else 'No arm is'} {text!r}; the run has {names}.")
    return meant[0]


def _relates(arm: Arm) -> bool:
    calls = parse_calls(arm.regularizers)
    return any(call.name == "TRLearner" and call.settings.get("relations") != "uniform" for call in calls)


def load_objective(folder: Path, recipe: Recipe, arm: Arm, seed: int) -> Objective:
    """Return the objective that an arm trained from a seed, in evaluation mode.

    Args:
        folder: of a finished run.
        recipe: of the run, see `recipe_of`.
        arm: one of its arms.
        seed: one of its seeds.

    Raises:
        MetaLensError: the run has no such seed, or its weights are missing or damaged.
    """
    if seed not in recipe.seeds:
        raise MetaLensError(f"The run has no seed {seed}; it has {', '.join(map(str, recipe.seeds))}.")
    path = folder / "weights" / f"arm{arms_of(recipe).index(arm)}-seed{seed}.safetensors"
    if not path.is_file():
        raise MetaLensError(f"{folder} has no weights of {arm}, seed {seed}: {path.name} is missing.")
    objective = arm.build(recipe, seed)
    try:
        objective.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(":.")
        raise MetaLensError(f"{path} does not hold the weights of {arm} ({reason}).") from error
    return objective.eval()
