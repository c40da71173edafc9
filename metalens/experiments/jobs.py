"""Jobs of an experiment: cells that are trained side by side, then tested."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from metalens.errors import DivergenceError
from metalens.execution.plan import Execution
from metalens.experiments.arms import Cell, Objectives, runs_of
from metalens.experiments.recipe import Recipe
from metalens.experiments.scoring import score
from metalens.experiments.store import CellResult
from metalens.experiments.trackers import Trackers
from metalens.experiments.workers import as_completed
from metalens.training.checkpoint import Checkpoints
from metalens.training.hooks import Hooks
from metalens.training.train import CHECKPOINT_EVERY, train

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Job(NamedTuple):
    """Cells that are trained side by side.

    Attributes:
        cells: all of them.
        left: those not tested yet.
        checkpoints: folder of checkpoints; `None` in a process that does not write.
    """

    cells: Sequence[Cell]
    left: Sequence[Cell]
    checkpoints: Path | None


class Watcher:
    """Progress callbacks of an experiment; they do nothing unless overridden."""

    def start_training(self, cells: Sequence[Cell], steps: int) -> None:
        """The training of cells side by side begins."""

    def execution(self, cells: Sequence[Cell], execution: Execution) -> None:
        """The execution of the steps of this training was chosen."""

    def step(self, step: int, loss: float) -> None:
        """An outer step was taken."""

    def end_cell(self, cell: Cell, scores: dict[str, float], diverged: int | None) -> None:
        """A cell has these mean test scores by metric; its training may have diverged at a step."""


@dataclass(frozen=True)
class Runner:
    """Runs jobs of a recipe, in this process or in the workers of the recipe's machine.

    Args:
        recipe: what is trained and tested.
        watcher: progress callbacks, which workers do not call.
        checkpoint_every: seconds between two checkpoints of a training.
        trackers: log every cell.
    """

    recipe: Recipe
    watcher: Watcher
    checkpoint_every: float = CHECKPOINT_EVERY
    trackers: Trackers | None = None

    def results(self, jobs: Sequence[Job], fabric: Fabric, objectives: Objectives) -> Iterator[CellResult]:
        """Yield the results of all cells that are left, as they complete."""
        workers = self.recipe.machine.workers
        if workers == 1:
            for job in jobs:
                yield from self.train_and_test(job, fabric, objectives)
            return
        threads = self.recipe.machine.threads
        threads = threads or max(1, torch.get_num_threads() // (1 if workers == "ray" else workers))
        machine = replace(self.recipe.machine, threads=threads)
        alone = replace(self, recipe=replace(self.recipe, machine=machine), watcher=Watcher())
        for of_job in as_completed(partial(_in_worker, alone), jobs, workers=workers, threads=threads):
            yield from of_job

    def train_and_test(self, job: Job, fabric: Fabric, objectives: Objectives) -> Iterator[CellResult]:
        """Train the cells of a job side by side, and test those that are left."""
        recipe, cells = self.recipe, job.cells
        self.watcher.start_training(cells, recipe.steps)
        runs = runs_of(recipe, cells, objectives)
        for cell, run in zip(cells, runs, strict=True):
            del objectives[cell]  # they are trained in place
            if self.trackers is not None and cell in job.left:
                run.curve.loggers = self.trackers.open(cell)
        checkpoints = None
        if recipe.machine.workers != "ray":  # other machines lack the folder
            checkpoints = Checkpoints(job.checkpoints, every=self.checkpoint_every, resume=True)
        facts: dict[str, Any] = {}

        def note(execution: Execution) -> None:
            facts["execution"] = str(execution)
            self.watcher.execution(cells, execution)

        begin = time.perf_counter()
        with suppress(DivergenceError):  # the runs record it
            settings = recipe.training(cells[0].seed)
            hooks = Hooks(self.watcher.step, on_execution=note)
            train(runs, settings, recipe.machine, fabric, checkpoints, hooks)
        seconds = time.perf_counter() - begin + (0.0 if checkpoints is None else checkpoints.seconds)
        facts["train_seconds"] = seconds / len(cells)
        for cell, run in zip(cells, runs, strict=True):
            if cell in job.left:
                result = score(recipe, cell, run, {**facts, "diverged": run.diverged}, fabric)
                if self.trackers is not None:
                    self.trackers.close(run.curve.loggers, cell, result.scores)
                yield result


def _in_worker(runner: Runner, job: Job) -> list[CellResult]:
    machine = runner.recipe.machine
    with machine.set_threads():
        return list(runner.train_and_test(job, machine.fabric(), Objectives(runner.recipe)))
