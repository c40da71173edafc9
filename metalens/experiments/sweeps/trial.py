"""One trial of a sweep: train an arm on every seed, and score it on validation tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, TypeVar

from optuna import TrialPruned
from optuna.trial import Trial

from metalens.data import Split, TaskDistribution
from metalens.errors import DivergenceError
from metalens.evaluation import undefined_scores
from metalens.experiments.arms import Objectives, arms_of, groups_of, runs_of
from metalens.experiments.recipe import Recipe
from metalens.metrics import METRICS, primary_metric
from metalens.training.fit import train
from metalens.training.outer_loop import Progress
from metalens.training.run import TrainingRun

R = TypeVar("R", bound=Recipe)


def sealed(recipe: R) -> R:
    """Return a recipe with the same settings that does not give its test tasks.

    >>> from metalens.experiments import RECIPES
    >>> sealed(RECIPES["demo"]).distribution("test", seed=0)
    Traceback (most recent call last):
    ...
    RuntimeError: A sweep must not see test tasks.
    """

    class Sealed(type(recipe)):
        def distribution(self, split: Split, seed: int) -> TaskDistribution:
            if split == "test":
                raise RuntimeError("A sweep must not see test tasks.")
            return super().distribution(split, seed)

    kind: Any = Sealed
    return kind(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})


def metric_of(recipe: Recipe) -> str:
    """Return the metric that decides, the primary one of the validation tasks.

    >>> from metalens.experiments import RECIPES
    >>> metric_of(RECIPES["demo"])
    'mse'
    """
    return primary_metric(undefined_scores(recipe.distribution("val", recipe.seeds[0]), n_tasks=1)["metric"])


def score(recipe: Recipe, trial: Trial, progress: Progress) -> float:
    """Train the one arm of a recipe with every seed, and return the mean of the best validation scores.

    After each validation the mean over seeds is reported to the trial: the scores of the seeds in training,
    and the best ones of the seeds trained before. Outer steps count on from one seed to the next.

    Args:
        recipe: sealed, with the settings of the trial.
        trial: gets the scores.
        progress: called with the step's number and its loss.

    Raises:
        TrialPruned: the trial is behind others.
        DivergenceError: the training of a seed diverged.
        MetaLensError: the recipe cannot be trained.
    """
    (arm,) = arms_of(recipe)
    fabric, objectives = recipe.machine.fabric(), Objectives(recipe)
    best: list[float] = []
    for cells in groups_of(recipe, fabric, objectives):
        runs = runs_of(recipe, cells, objectives)
        judge = _Judge(trial, recipe, runs, best, progress)
        try:
            settings = recipe.training(cells[0].seed)
            train(runs, settings, recipe.machine, fabric, progress=judge.look)
        except DivergenceError:
            trial.report(math.nan, judge.begin + max(run.diverged or 0 for run in runs))
            raise
        for run in runs:
            if not _scores(run):  # nothing was to be trained
                run.validate(recipe.steps, is_last=True)
        best += map(_best, runs)
    if not all(map(math.isfinite, best)):
        raise DivergenceError(f"No validation score of {arm} is finite.")
    return fmean(best)


@dataclass(frozen=True)
class _Judge:
    """Reports validation scores during training, and ends a training that cannot be the best."""

    trial: Trial
    recipe: Recipe
    runs: Sequence[TrainingRun]
    earlier: Sequence[float]
    progress: Progress

    @property
    def begin(self) -> int:
        """How many steps the seeds before have made."""
        return self.recipe.steps * len(self.earlier)

    def look(self, step: int, loss: float) -> None:
        """Report the scores of a step, if it was validated.

        Raises:
            TrialPruned: the trial is behind others.
            DivergenceError: a run diverged, so that there will be no mean over seeds.
        """
        self.progress(step, loss)
        if diverged := [run for run in self.runs if run.diverged is not None]:
            raise DivergenceError(f"{len(diverged)} of {len(self.runs)} seeds diverged at step {step}.")
        if self.runs[0].curve.rows[-1:] and self.runs[0].curve.rows[-1][:2] == (step, "val"):
            scores = [_scores(run)[-1] for run in self.runs]
            self.trial.report(fmean([*self.earlier, *scores]), self.begin + step)
            is_last = step == self.recipe.steps and len(self.earlier) + len(scores) == len(self.recipe.seeds)
            if not is_last and self.trial.should_prune():
                raise TrialPruned


def _scores(run: TrainingRun) -> list[float]:
    """Return the scores of all validations in the primary metric."""
    rows = [row for row in run.curve.rows if row[1] == "val"]
    return [value for _, _, metric, value in rows if metric == rows[0][2]]


def _best(run: TrainingRun) -> float:
    metric = next(metric for _, split, metric, _ in run.curve.rows if split == "val")
    best = max if METRICS[metric].better == "higher" else min
    return best(filter(math.isfinite, _scores(run)), default=math.nan)
