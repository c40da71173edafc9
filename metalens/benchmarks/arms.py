"""The arms of a recipe, and which of their trainings can be side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch

from metalens.benchmarks.calls import build_learner, build_regularizers, parse_calls, refuses_regularizers
from metalens.benchmarks.recipe import Recipe
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.replicas import ReplicationError, differing_numbers

T = TypeVar("T")

MOST_TOGETHER = 32  # more bring little speed, and take their memory all the same


@dataclass(frozen=True)
class Arm:
    """A learner with its regularizers, as written in the recipe."""

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
            return Objective(learner, regularizers, batching=recipe.batching, chunk=recipe.chunk)


class Cell(NamedTuple):
    """One training of an experiment."""

    arm: Arm
    seed: int


def arms_of(recipe: Recipe) -> list[Arm]:
    """Return the arms of a recipe: every learner with every choice of regularizers.

    A learner to which no regularizer can attach is an arm by itself, whatever the others are compared with.
    """
    arms = []
    for learner in recipe.learner:
        alone = len(recipe.learner) > 1 and refuses_regularizers(learner)
        for regularizers in ["none"] if alone else recipe.regularizers:
            texts = (learner, regularizers)
            arms.append(Arm(*(" + ".join(map(str, parse_calls(text))) or "none" for text in texts)))
    if twice := {str(arm) for arm in arms if arms.count(arm) > 1}:
        raise MetaLensError(f"Each arm must be named once, got {', '.join(sorted(twice))} twice.")
    return arms


def teams_of(recipe: Recipe, arms: Sequence[Arm]) -> list[list[Cell]]:
    """Return the cells in groups whose objectives differ in numbers only, as far as one can see."""
    teams: list[list[Arm]] = []
    for arm in arms:
        for team in teams:
            try:
                differing_numbers([team[0].build(recipe, 0), arm.build(recipe, 0)])
            except ReplicationError:
                continue
            team.append(arm)
            break
        else:
            teams.append([arm])
    cells = [[Cell(arm, seed) for arm in team for seed in recipe.seeds] for team in teams]
    return [of[i : i + MOST_TOGETHER] for of in cells for i in range(0, len(of), MOST_TOGETHER)]


def side_by_side(recipe: Recipe, cells: Sequence[Cell], work: Callable[[Sequence[Cell]], T]) -> Iterator[T]:
    """Yield what work makes of as many of the cells at once as can be computed side by side.

    All are tried at first, then the seeds of each arm, then each cell by itself.

    Raises:
        ReplicationError: they cannot all be side by side, and the recipe insists.
    """
    if len(cells) == 1 or recipe.together is not False:
        try:
            result = work(cells)
        except ReplicationError:
            if recipe.together is True:
                raise
        else:
            yield result
            return
    arms = [list(of_arm) for _, of_arm in groupby(cells, key=lambda cell: cell.arm)]
    for part in arms if len(arms) > 1 else [[cell] for cell in cells]:
        yield from side_by_side(recipe, part, work)
