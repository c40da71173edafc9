"""The arms of a recipe, and which of their trainings can be side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch

from metalens.errors import MetaLensError
from metalens.evaluation import Validation
from metalens.execution.replicas import ReplicationError, differing_numbers
from metalens.experiments.devices import n_processes
from metalens.experiments.recipe import Recipe
from metalens.objective import Objective
from metalens.specs.calls import (
    build_learner,
    build_regularizers,
    build_sampler,
    parse_calls,
    refuses_regularizers,
    with_sampler,
)
from metalens.training.fit import assembled, training_tasks
from metalens.training.run import TrainingRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOST_TOGETHER = 32  # more bring little speed, and take their memory all the same


@dataclass(frozen=True)
class Arm:
    """A learner with its regularizers, as written in the recipe, and its sampler if it is not `Uniform`."""

    learner: str
    regularizers: str

    def __str__(self) -> str:
        return self.learner if self.regularizers == "none" else f"{self.learner} + {self.regularizers}"

    def build(self, recipe: Recipe, seed: int) -> Objective:
        """Return a freshly initialized objective; arms with the same learner start from equal weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner = build_learner(self.learner, recipe.network(), recipe.tuned)
            regularizers = build_regularizers(self.regularizers, learner)
            learner.plan(recipe.batching)  # refuses what is impossible, now
            return Objective(learner, regularizers)


class Cell(NamedTuple):
    """One training of an experiment."""

    arm: Arm
    seed: int


def arms_of(recipe: Recipe) -> list[Arm]:
    """Return the arms of a recipe: every learner with every choice of regularizers and every sampler.

    A learner to which no regularizer can attach is an arm by itself, whatever the others are compared with.
    """
    arms = []
    for learner in recipe.learner:
        alone = len(recipe.learner) > 1 and refuses_regularizers(learner)
        name = " + ".join(map(str, parse_calls(learner))) or "none"
        for regularizers in ["none"] if alone else recipe.regularizers:
            arms += [Arm(name, with_sampler(regularizers, sampler)) for sampler in recipe.sampler]
    if twice := {str(arm) for arm in arms if arms.count(arm) > 1}:
        raise MetaLensError(f"Each arm must be named once, got {', '.join(sorted(twice))} twice.")
    return arms


def groups_of(recipe: Recipe, fabric: Fabric) -> list[list[Cell]]:
    """Return all cells of a recipe, in groups that can be trained side by side.

    Raises:
        ReplicationError: arms that differ in numbers only cannot be side by side, and the recipe insists.
    """
    if (several := n_processes(recipe) > 1) and recipe.together is True:
        raise ReplicationError("Side by side, objectives are trained by one process; use devices=1.")
    if recipe.on_nonfinite != "raise" and recipe.together is True:
        raise ReplicationError("Side by side, no objective can skip a step alone; use on_nonfinite='raise'.")
    if recipe.together is False or several or recipe.on_nonfinite != "raise":
        return [[Cell(arm, seed)] for arm in arms_of(recipe) for seed in recipe.seeds]
    groups = []
    for team in _teams(recipe):
        cells = [Cell(arm, seed) for arm in team for seed in recipe.seeds]
        for start in range(0, len(cells), MOST_TOGETHER):
            groups += _split(recipe, cells[start : start + MOST_TOGETHER], fabric)
    return groups


def runs_of(recipe: Recipe, cells: Sequence[Cell]) -> list[TrainingRun]:
    """Return freshly initialized objectives of cells, with their tasks."""
    runs = []
    for arm, seed in cells:
        objective, validation = arm.build(recipe, seed), None
        if recipe.n_val_tasks:
            held_out = recipe.distribution("val", seed)
            validation = Validation(held_out, n_tasks=recipe.n_val_tasks, every=recipe.validate_every)
        tasks = training_tasks(objective.learner, recipe.distribution("train", seed))
        runs.append(TrainingRun(objective, tasks, validation, build_sampler(arm.regularizers)))
    return runs


def _teams(recipe: Recipe) -> list[list[Arm]]:
    """Return the arms in teams that differ in numbers only, as far as one can see."""
    teams: list[tuple[Objective, list[Arm]]] = []
    for arm in arms_of(recipe):
        objective = arm.build(recipe, seed=0)
        for first, team in teams:
            try:
                differing_numbers([first, objective])
            except ReplicationError:
                continue
            team.append(arm)
            break
        else:
            teams.append((objective, [arm]))
    return [team for _, team in teams]


def _split(recipe: Recipe, cells: list[Cell], fabric: Fabric) -> list[list[Cell]]:
    """Return all cells as one group or, where a trial finds that impossible, by arm or each by itself."""
    if len(cells) == 1:
        return [cells]
    try:
        settings = replace(recipe.training(seed=0), steps=1)
        with assembled(runs_of(recipe, cells), settings, replace(recipe.machine, compile=False), fabric):
            return [cells]
    except ReplicationError:
        if recipe.together is True:
            raise
    by_arm = [list(of_arm) for _, of_arm in groupby(cells, key=lambda cell: cell.arm)]
    if len(by_arm) == 1:
        return [[cell] for cell in cells]
    return [group for of_arm in by_arm for group in _split(recipe, of_arm, fabric)]
