"""A finished run's trained objectives, from its manifest and weights."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from safetensors import SafetensorError
from safetensors.torch import load_file

from metalens.errors import MetaLensError
from metalens.experiments import RECIPES
from metalens.experiments.arms import Arm, arms_of
from metalens.experiments.recipe import Recipe
from metalens.objective import Objective
from metalens.regularizers.base import relation_of
from metalens.specs.calls import build_regularizers, takes_none

N_COMPARED = 8  # test tasks of each seed by which runs are found to be alike
NAMES: set[str | int] = {"name", "description"}
IRRELEVANT = NAMES | {"learner", "regularizers", "sampler"}  # to the tasks


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
        return replace(recipe, **typed_settings(recipe, settings))
    except ArgumentError as error:  # a text where a number belongs
        raise MetaLensError(
            f"The manifest of the run is damaged ({' '.join(str(error).split())}); run it again."
        ) from error


def typed_settings(experiment: object, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a recipe, or of a study, with the types that its fields have.

    Raises:
        ArgumentError: a value is of another type.

    >>> typed_settings(RECIPES["demo"], {"outer_lr": 1, "hidden": [8]})
    {'outer_lr': 1.0, 'hidden': [8]}
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(type(experiment), skip=NAMES)
    given = {name: value for name, value in settings.items() if name not in NAMES}
    typed = parser.parse_object(given, defaults=False)
    for option in parser._actions:
        if option.dest in given and typed[option.dest] is None and not takes_none(option):
            raise ArgumentError(None, f"{option.dest} must have a value, got none.")
    return settings | {name: typed[name] for name in given}


def check_same_tasks(runs: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Refuse runs that were not tested on the same tasks: seeds, number of tasks, and tasks themselves.

    Of each seed the first tasks are made again and compared, number by number.

    Args:
        runs: folder and manifest of each.

    Raises:
        MetaLensError: two runs differ; their settings that do are named. Or see `recipe_of`.
    """
    (first, of_first), *others = ((folder, recipe_of(manifest)) for folder, manifest in runs)
    for folder, recipe in others:
        if _same_tests(of_first, recipe):
            continue
        settings = asdict(of_first), asdict(recipe)
        names = dict.fromkeys([*settings[0], *settings[1]])
        unlike = [
            f"{name} ({settings[0].get(name)} and {settings[1].get(name)})"
            for name in names
            if name not in IRRELEVANT and settings[0].get(name) != settings[1].get(name)
        ]
        raise MetaLensError(
            f"{first} and {folder} were not tested on the same tasks; their settings differ in "
            f"{', '.join(unlike) or 'nothing, so their data must'}."
        )


def _same_tests(one: Recipe, other: Recipe) -> bool:
    if (one.seeds, one.n_test_tasks) != (other.seeds, other.n_test_tasks):
        return False
    for seed in one.seeds:
        tests = [recipe.distribution("test", seed) for recipe in (one, other)]
        for number in range(min(N_COMPARED, one.n_test_tasks)):
            pair = [list(test[number].tensors) for test in tests]
            if not all(map(torch.equal, *pair)):
                return False
    return True


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
    return relation_of(build_regularizers(arm.regularizers)) is not None


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
