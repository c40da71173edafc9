"""The arms of a recipe, and the trainings that can run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch

from metalens.errors import MetaLensError
from metalens.evaluation import Validation
from metalens.execution.replicas import ReplicationError, differing_numbers
from metalens.experiments.recipe import Recipe
from metalens.objective import Objective
from metalens.specs import calls
from metalens.statistics.arms import arm_label
from metalens.training.run import TrainingRun
from metalens.training.train import assembled, training_tasks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MAX_TOGETHER = 32  # more bring little speed, and need more memory


class Arm(NamedTuple):
    """A learner with its regularizers and its task sampler, as texts."""

    learner: str
    regularizers: str = "none"
    sampler: str = "Uniform"

    def __str__(self) -> str:
        return arm_label(*self)

    def build(self, recipe: Recipe, seed: int, *, is_saved: bool = False) -> Objective:
        """Return a freshly initialized objective; arms with the same learner have equal initial weights.

        If `is_saved`, its weights will be those that a training saved.

        Raises:
            MetaLensError: a learner or regularizer is unknown, or does not fit the recipe.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = recipe.saved_network() if is_saved else recipe.network()
            learner = calls.build_learner(self.learner, network, recipe.tuned)
            regularizers = calls.build_regularizers(self.regularizers)
            learner.plan(recipe.machine.batching)  # raises if impossible
            learner.differentiation = recipe.machine.mode  # the same
            return Objective(learner, regularizers)


class Cell(NamedTuple):
    """One training of an experiment."""

    arm: Arm
    seed: int


class Objectives(dict[Cell, Objective]):
    """The freshly initialized objectives of a recipe by cell, each built on first access."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def __missing__(self, cell: Cell) -> Objective:
        return self.setdefault(cell, cell.arm.build(self.recipe, cell.seed))


def arms_of(recipe: Recipe) -> list[Arm]:
    """Return the arms of a recipe: every learner with every choice of regularizers and every sampler.

    Among several learners, one that refuses regularizers is only an arm without them.

    Raises:
        MetaLensError: an arm is named twice, a text cannot be parsed, or a sampler is unknown.
    """
    samplers = [str(calls.sampler_call(sampler)) for sampler in recipe.sampler]
    arms = []
    for learner in recipe.learner:
        alone = len(recipe.learner) > 1 and calls.refuses_regularizers(learner)
        for regularizers in ["none"] if alone else recipe.regularizers:
            names = calls.canonical(learner), calls.canonical(regularizers)
            arms += [Arm(*names, sampler) for sampler in samplers]
    if twice := {str(arm) for arm in arms if arms.count(arm) > 1}:
        raise MetaLensError(f"Each arm must be named once, got {', '.join(sorted(twice))} twice.")
    return arms


def groups_of(recipe: Recipe, fabric: Fabric, objectives: Objectives | None = None) -> list[list[Cell]]:
    """Return all cells of a recipe, in groups that can be trained side by side.

    Args:
        recipe: the recipe.
        fabric: its devices.
        objectives: cache of objectives; by default a new one.

    Raises:
        ReplicationError: the recipe requires training side by side, and its arms do not allow it.
    """
    several, together = recipe.machine.n_processes > 1, recipe.machine.together
    if several and together is True:
        raise ReplicationError("Side by side, objectives are trained by one process; use devices=1.")
    if recipe.on_nonfinite != "raise" and together is True:
        raise ReplicationError("Side by side, no objective can skip a step alone; use on_nonfinite='raise'.")
    if together is False or several or recipe.on_nonfinite != "raise":
        return [[Cell(arm, seed)] for arm in arms_of(recipe) for seed in recipe.seeds]
    objectives = Objectives(recipe) if objectives is None else objectives
    groups = []
    for arms in _alike(recipe, objectives):
        cells = [Cell(arm, seed) for arm in arms for seed in recipe.seeds]
        for start in range(0, len(cells), MAX_TOGETHER):
            groups += _split(recipe, cells[start : start + MAX_TOGETHER], fabric, objectives)
    return groups


def runs_of(recipe: Recipe, cells: Sequence[Cell], objectives: Objectives | None = None) -> list[TrainingRun]:
    """Return the untrained runs of some cells of a recipe: objectives, by default new, tasks and samplers.

    Raises:
        MetaLensError: a learner, regularizer or sampler is unknown, or the data are missing.
    """
    objectives = Objectives(recipe) if objectives is None else objectives
    runs = []
    for cell in cells:
        objective, validation = objectives[cell], None
        if recipe.n_val_tasks:
            held_out = recipe.distribution("val", cell.seed)
            validation = Validation(held_out, n_tasks=recipe.n_val_tasks, every=recipe.validate_every)
        tasks = training_tasks(objective.learner, recipe.distribution("train", cell.seed))
        runs.append(TrainingRun(objective, tasks, validation, calls.build_sampler(cell.arm.sampler)))
    return runs


def _alike(recipe: Recipe, objectives: Objectives) -> list[list[Arm]]:
    """Return the arms in lists whose objectives seem to differ in numbers only."""
    lists: list[list[Arm]] = []
    for arm in arms_of(recipe):
        for arms in lists:
            with suppress(ReplicationError):
                differing_numbers([objectives[Cell(one, recipe.seeds[0])] for one in (arms[0], arm)])
                arms.append(arm)
                break
        else:
            lists.append([arm])
    return lists


def _split(recipe: Recipe, cells: list[Cell], fabric: Fabric, objectives: Objectives) -> list[list[Cell]]:
    """Return all cells as one group; if assembling it fails, by arm or one by one."""
    if len(cells) == 1:
        return [cells]
    before = [{name: t.clone() for name, t in objectives[cell].state_dict().items()} for cell in cells]
    settings, machine = replace(recipe.training(seed=0), steps=1), replace(recipe.machine, compile=False)
    try:
        with assembled(runs_of(recipe, cells, objectives), settings, machine, fabric):
            return [cells]
    except ReplicationError:
        if recipe.machine.together is True:
            raise
    finally:
        for cell, state in zip(cells, before, strict=True):
            objectives[cell].cpu().load_state_dict(state)
    by_arm = [list(of_arm) for _, of_arm in groupby(cells, key=lambda cell: cell.arm)]
    if len(by_arm) == 1:
        return [[cell] for cell in cells]
    return [group for of_arm in by_arm for group in _split(recipe, of_arm, fabric, objectives)]


def cells_label(cells: Sequence[Cell]) -> str:
    """Return a short name of cells.

    >>> cells_label([Cell(Arm("MAML", "none"), seed) for seed in range(3)])
    'MAML, 3 seeds'
    """
    arms, seeds = ({cell[i] for cell in cells} for i in range(2))
    who = str(cells[0].arm) if len(arms) == 1 else f"{len(arms)} arms"
    return f"{who}, " + (f"seed {cells[0].seed}" if len(seeds) == 1 else f"{len(seeds)} seeds")
