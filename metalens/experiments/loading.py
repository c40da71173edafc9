"""From a run to its recipe and trained objectives, and from a recipe to the command that runs it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from metalens.errors import MetaLensError
from metalens.experiments import find_recipe
from metalens.experiments.arms import Arm, arms_of
from metalens.experiments.recipe import FIXED, Recipe
from metalens.objective import Objective
from metalens.regularizers.base import relation_of
from metalens.specs.calls import build_regularizers
from metalens.specs.outside import named_by
from metalens.specs.settings import changed
from metalens.statistics.arms import ARM

N_COMPARED = 8  # test tasks of each seed by which runs are compared


def recipe_of(manifest: dict[str, Any]) -> Recipe:
    """Return the recipe of a finished run with its settings.

    Raises:
        MetaLensError: there is no such recipe, it is from a module that has not been imported, or this
            version has other settings.
    """
    name, settings = manifest["recipe"], {**manifest["configuration"], "machine": manifest["machine"]}
    with named_by("The manifest of the run"):
        recipe = find_recipe(name)
    if unknown := settings.keys() - {field.name for field in fields(recipe)}:
        names = ", ".join(sorted(unknown))
        raise MetaLensError(f"The run is of another version of MetaLens: {name} has no {names}.")
    try:
        return changed(recipe, settings)
    except MetaLensError as error:
        raise MetaLensError(f"The manifest of the run is damaged ({error}); run it again.") from error


def check_same_tasks(runs: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Check that runs, given by folder and manifest, were tested on the same tasks.

    Compares seeds, numbers of tasks, and the first tasks of each seed, which are drawn again.

    Raises:
        MetaLensError: two runs differ, in the settings that are named; or see `recipe_of`.
    """
    (first, of_first), *others = ((folder, recipe_of(manifest)) for folder, manifest in runs)
    for folder, recipe in others:
        if _same_tests(of_first, recipe):
            continue
        settings = of_first.configuration, recipe.configuration
        names = dict.fromkeys([*settings[0], *settings[1]])
        unlike = [
            f"{name} ({settings[0].get(name)} and {settings[1].get(name)})"
            for name in names
            if name not in (*FIXED, *ARM) and settings[0].get(name) != settings[1].get(name)
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
            if not all(map(torch.equal, *(test[number].tensors for test in tests))):
                return False
    return True


def arm_of(recipe: Recipe, text: str | None) -> Arm:
    """Return the arm with a label, with or without the learner, or with a number from 0.

    Without a text, it is the first arm that learns relations between tasks, else the first.

    Raises:
        MetaLensError: no arm or several arms match.

    >>> str(arm_of(find_recipe("demo"), "TRLearner")), str(arm_of(find_recipe("demo"), "0"))
    ('MAML + TRLearner', 'MAML')
    """
    arms = arms_of(recipe)
    if text is None:
        relating = (arm for arm in arms if relation_of(build_regularizers(arm.regularizers)) is not None)
        return next(relating, arms[0])
    named = [
        arm
        for number, arm in enumerate(arms)
        if "".join(text.split()) in ("".join(name.split()) for name in (*_names(arm), str(number)))
    ]
    if len(named) != 1:
        names = "; ".join(f"{number}: {arm}" for number, arm in enumerate(arms))
        raise MetaLensError(f"{'Several arms are' if named else 'No arm is'} {text!r}; the run has {names}.")
    return named[0]


def _names(arm: Arm) -> tuple[str, str]:
    """Return the label of an arm with its learner, and without it."""
    return str(arm), str(arm).removeprefix(arm.learner).removeprefix(" + ") or "none"


def load_objective(folder: Path, recipe: Recipe, arm: Arm, seed: int) -> Objective:
    """Return the trained objective of an arm and seed of a finished run, in evaluation mode.

    Raises:
        MetaLensError: the run has no such seed, or its weights are missing or damaged.
    """
    if seed not in recipe.seeds:
        raise MetaLensError(f"The run has no seed {seed}; it has {', '.join(map(str, recipe.seeds))}.")
    path = folder / "weights" / f"arm{arms_of(recipe).index(arm)}-seed{seed}.safetensors"
    if not path.is_file():
        raise MetaLensError(f"{folder} has no weights of {arm}, seed {seed}: {path.name} is missing.")
    objective = arm.build(recipe, seed, is_saved=True)
    try:
        objective.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(":.")
        raise MetaLensError(f"{path} does not hold the weights of {arm} ({reason}).") from error
    return objective.eval()


def command_of(recipe: Recipe) -> str:
    """Return the command that runs a recipe with its settings.

    >>> from dataclasses import replace
    >>> demo = find_recipe("demo")
    >>> command_of(replace(demo, steps=9, seeds=[0, 1], n_train_tasks=None))
    'metalens run demo --steps 9 --seeds 0 1 --n_train_tasks null'
    >>> command_of(replace(demo, machine=replace(demo.machine, compile=False)))
    'metalens run demo --machine.compile false'
    """
    return shlex.join(["metalens", "run", recipe.name, *options_of(recipe, find_recipe(recipe.name))])


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
