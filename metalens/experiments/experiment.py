"""Run a recipe: every arm on every seed, on identical tasks, into one folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import pandas as pd
import torch

from metalens.data import Split
from metalens.errors import DivergenceError, MetaLensError
from metalens.execution.plan import Execution
from metalens.experiments.arms import Arm, Cell, arms_of, groups_of, runs_of
from metalens.experiments.devices import fabric_of, n_processes
from metalens.experiments.outcomes import FAILURES, Outcome, Outcomes, Plan
from metalens.experiments.recipe import Recipe
from metalens.experiments.scoring import score
from metalens.experiments.trackers import TrackerName, Trackers, check_trackers
from metalens.experiments.workers import as_completed
from metalens.io.files import MANIFEST, atomic_path
from metalens.io.provenance import commit
from metalens.specs.calls import build_sampler, parse_calls
from metalens.training.checkpoint import Checkpoints
from metalens.training.fingerprint import source_digest
from metalens.training.fit import CHECKPOINT_EVERY, assembled, processes_of, train, training_tasks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VERSIONS = ("torch", "numpy", "scipy", "pandas", "lightning-fabric", "safetensors")


class Job(NamedTuple):
    """Cells that are trained side by side.

    Attributes:
        cells: all of them.
        left: those that are not yet tested.
        checkpoints: where the training is kept; `None` in a process that does not write.
    """

    cells: Sequence[Cell]
    left: Sequence[Cell]
    checkpoints: Path | None


class Watcher:
    """Told what an experiment is doing; does nothing unless overridden."""

    def start_training(self, cells: Sequence[Cell], steps: int) -> None:
        """Training of one cell begins, or of several side by side."""

    def execution(self, cells: Sequence[Cell], execution: Execution) -> None:
        """The way this training's steps are executed was chosen."""

    def step(self, step: int, loss: float) -> None:
        """An outer step was taken."""

    def end_cell(self, cell: Cell, scores: dict[str, float], diverged: int | None) -> None:
        """One arm with one seed was trained and tested.

        Args:
            cell: the arm and the seed.
            scores: mean test scores by metric.
            diverged: the step at which training diverged, if it did.
        """


class Experiment:
    """A recipe in the folder for its files: planned, done job by job, and finished.

    It goes on from what is in the folder. So the jobs can also be done by several processes, each with an
    experiment of its own in the same folder, after one has planned it and before one finishes it.

    Args:
        recipe: what to run.
        folder: see `run`.

    Attributes:
        plan: what was done before, and how the rest is divided; `None` if the experiment is complete.
        jobs: what is left.

    Raises:
        MetaLensError: the recipe cannot be assembled; the folder is that of another run.
    """

    def __init__(self, recipe: Recipe, folder: Path | None) -> None:
        self.recipe, self.folder = recipe, folder
        self.arms = arms_of(recipe)
        self._descriptions = [_describe(arm, recipe) for arm in self.arms]  # mistakes show at once
        self._fabric = fabric_of(recipe)
        self._outcomes = None if folder is None else Outcomes(folder, self.arms)
        self.plan: Plan | None = None
        self.jobs: list[Job] = []
        gather = processes_of(self._fabric).gather_objects
        if gather([self._outcomes is not None and self._outcomes.are_complete(asdict(recipe))])[0]:
            return
        # Now, lest missing or damaged test data are found after hours.
        self._data = {
            split: recipe.distribution(split, recipe.seeds[0]).metadata() for split in get_args(Split)
        }
        now, self._clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        self._commit = commit()
        with _threads(recipe.threads):
            identity = {**asdict(recipe), **versions(), "source": source_digest()}
            identity["threads"] = torch.get_num_threads()
            divide = partial(groups_of, recipe, self._fabric)
            # That of the first process.
            self.plan = gather([self._outcomes and self._outcomes.plan(identity, now, divide)])[0]
        assert self.plan is not None
        for group in self.plan.groups:
            left = [cell for cell in group if cell not in self.plan.done]
            checkpoints = None if self._outcomes is None else self._outcomes.checkpoints(group)
            if left:
                self.jobs.append(Job(group, left, checkpoints))

    def clean(self) -> None:
        """Remove what writers of its folder that were killed have left; nobody may write there now."""
        if self._outcomes is not None:
            self._outcomes.clean()

    def done(self) -> Iterator[Outcome]:
        """Yield the outcomes of the cells that were trained and tested before."""
        if self.plan is not None and self._outcomes is not None:
            yield from map(self._outcomes.read, self.plan.done)

    def do(
        self,
        jobs: Sequence[Job],
        watcher: Watcher,
        checkpoint_every: float = CHECKPOINT_EVERY,
        trackers: Sequence[TrackerName] = (),
    ) -> None:
        """Train and test the cells of some jobs, and write what comes out."""
        if self.plan is None:
            return
        recipe, tracked = self.recipe, None
        if self.folder is not None:
            tracked = Trackers(trackers, self.folder, recipe, self.plan.started)
        with _threads(recipe.threads):
            for outcome in _outcomes(recipe, jobs, self._fabric, watcher, checkpoint_every, tracked):
                if self._outcomes is not None:
                    self._outcomes.write(outcome, self._seconds())
                    watcher.end_cell(outcome.cell, outcome.scores, outcome.facts["diverged"])

    def finish(self, command: str = "", failures: Mapping[Cell, str] | None = None) -> None:
        """Write the tables and the manifest, if all cells are done, but for those that failed.

        Args:
            command: the command that repeats the run.
            failures: why cells failed; their arms are left out of the tables, and stay to be tried again.

        Raises:
            MetaLensError: all arms failed.
            DivergenceError: every training diverged.
        """
        if self.plan is None or self.folder is None or self._outcomes is None:
            return
        recipe, failures = self.recipe, failures or {}
        failed = {cell.arm for cell in failures}
        if failed.issuperset(self.arms):
            raise MetaLensError(f"No arm of {recipe.name} was trained with all seeds.")
        arms = [arm for arm in self.arms if arm not in failed]
        in_order = [self._outcomes.read(Cell(arm, seed)) for arm in arms for seed in recipe.seeds]
        if not any(outcome.is_scored for outcome in in_order):
            cell, step = in_order[0].cell, in_order[0].facts["diverged"]
            raise DivergenceError(
                f"Every training diverged, that of {cell.arm} with seed {cell.seed} at step {step}; lower "
                "inner_lr or outer_lr, or set clip_norm."
            )
        for name in in_order[0].tables:
            frames = [frame for outcome in in_order for frame in outcome.tables[name]]
            full = [frame for frame in frames if len(frame)]  # empty ones would make whole numbers real
            if frames:
                with atomic_path(self.folder / f"{name}.csv") as path:
                    pd.concat(full or frames, ignore_index=True).to_csv(path, index=False)
        manifest = {
            "metalens": version("metalens"),
            "recipe": recipe.name,
            "description": recipe.description,
            "command": command,
            "configuration": asdict(recipe),
            "arms": self._descriptions,
            "data": self._data,
            "versions": versions(),
            "commit": self._commit,
            "device": str(self._fabric.device),
            "processes": self._fabric.world_size,
            "processor": platform.processor() or platform.machine(),
            "threads": recipe.threads or torch.get_num_threads(),
            "started": self.plan.started,
            "seconds": self._seconds(),
            "cells": [outcome.facts for outcome in in_order],
            FAILURES: [
                {**asdict(cell.arm), "seed": cell.seed, "reason": why} for cell, why in failures.items()
            ],
        }
        with atomic_path(self.folder / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if not failures:
            self._outcomes.forget()

    def _seconds(self) -> float:
        assert self.plan is not None
        return self.plan.seconds + time.perf_counter() - self._clock


def run(
    recipe: Recipe,
    folder: Path | None,
    *,
    command: str = "",
    watcher: Watcher | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    trackers: Sequence[TrackerName] = (),
) -> None:
    """Train and test every arm with every seed, and write the run's files into a folder.

    In a folder where the same run was interrupted, cells that are done stay, and a training goes on from its
    last checkpoint. The results are those of a run without interruption, to the last bit.

    A training that diverges is a result: it is scored with the best weights that were validated before, and
    without any, its test scores are not numbers.

    Args:
        recipe: what to run.
        folder: an empty folder or that of an interrupted run, filled with `results.csv`, `metrics.csv`,
            `manifest.json`, `weights/*.safetensors` and, where they apply, `curves.csv` and `relations.csv`;
            `None` in all but the first of several processes, which alone writes.
        command: the command that repeats the run, for the manifest.
        watcher: told about progress.
        checkpoint_every: seconds between two checkpoints of a training, and between two reports to trackers.
        trackers: get a run of theirs for each cell, see `Trackers`.

    Raises:
        MetaLensError: the recipe cannot be assembled; the folder is that of another run; a tracker is not
            installed.
        DivergenceError: every training diverged.
    """
    watcher = watcher or Watcher()
    check_trackers(trackers)
    experiment = Experiment(recipe, folder)
    experiment.clean()
    for outcome in experiment.done():
        watcher.end_cell(outcome.cell, outcome.scores, outcome.facts["diverged"])
    experiment.do(experiment.jobs, watcher, checkpoint_every, trackers)
    experiment.finish(command)


def explain(recipe: Recipe) -> Iterator[tuple[Arm, Execution]]:
    """Yield the arms of a recipe, each with the way in which the steps of its training would be executed.

    Raises:
        MetaLensError: the recipe cannot be assembled, or is for several processes.
    """
    if n_processes(recipe) > 1:
        raise MetaLensError("Several processes follow the rule, and measure nothing; explain devices=1.")
    fabric = fabric_of(recipe)
    told: set[Arm] = set()
    with _threads(recipe.threads):
        for group in groups_of(recipe, fabric):
            arms = {cell.arm: None for cell in group if cell.arm not in told}
            if arms:
                settings = recipe.training(seed=0)
                with assembled(runs_of(recipe, group), settings, recipe.machine, fabric) as (_, execution):
                    yield from ((arm, execution) for arm in arms)
            told |= set(arms)


def _outcomes(
    recipe: Recipe,
    jobs: Sequence[Job],
    fabric: Fabric,
    watcher: Watcher,
    checkpoint_every: float,
    trackers: Trackers | None,
) -> Iterator[Outcome]:
    """Do the jobs, here or in the recipe's workers; yield what came out as it does."""
    if recipe.workers == 1:
        for job in jobs:
            yield from _train_and_test(recipe, job, fabric, watcher, checkpoint_every, trackers)
    else:
        n = 1 if recipe.workers == "ray" else recipe.workers
        threads = recipe.threads or max(1, torch.get_num_threads() // n)
        work = partial(_in_a_worker, replace(recipe, threads=threads), checkpoint_every, trackers)
        for of_group in as_completed(work, jobs, workers=recipe.workers, threads=threads):
            yield from of_group


def _in_a_worker(
    recipe: Recipe, checkpoint_every: float, trackers: Trackers | None, job: Job
) -> list[Outcome]:
    with _threads(recipe.threads):
        return list(_train_and_test(recipe, job, fabric_of(recipe), Watcher(), checkpoint_every, trackers))


def _train_and_test(
    recipe: Recipe,
    job: Job,
    fabric: Fabric,
    watcher: Watcher,
    checkpoint_every: float,
    trackers: Trackers | None,
) -> Iterator[Outcome]:
    """Train cells side by side, and test those that are left."""
    cells = job.cells
    watcher.start_training(cells, recipe.steps)
    runs = runs_of(recipe, cells)
    for cell, run in zip(cells, runs, strict=True):
        if trackers is not None and cell in job.left:
            run.curve.loggers = trackers.open(cell)
    # On other machines of a cluster there is no such folder.
    checkpoints = None
    if recipe.workers != "ray":
        checkpoints = Checkpoints(job.checkpoints, every=checkpoint_every, resume=True)
    facts: dict[str, Any] = {}

    def note(execution: Execution) -> None:
        facts["execution"] = str(execution)
        watcher.execution(cells, execution)

    begin = time.perf_counter()
    with suppress(DivergenceError):  # which the runs know of
        train(
            runs, recipe.training(cells[0].seed), recipe.machine, fabric, checkpoints=checkpoints,
            progress=watcher.step, on_execution=note,
        )  # fmt: skip
    seconds = time.perf_counter() - begin + (0.0 if checkpoints is None else checkpoints.seconds)
    facts["train_seconds"] = seconds / len(cells)
    for cell, run in zip(cells, runs, strict=True):
        if cell in job.left:
            outcome = score(recipe, cell, run, {**facts, "diverged": run.diverged}, fabric)
            if trackers is not None:
                trackers.close(run.curve.loggers, cell, outcome.scores)
            yield outcome


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _describe(arm: Arm, recipe: Recipe) -> dict[str, Any]:
    objective = arm.build(recipe, seed=0)
    objective.check_meta_batch_size(recipe.meta_batch_size, n_processes(recipe))
    tasks = training_tasks(objective.learner, recipe.distribution("train", recipe.seeds[0]))
    build_sampler(arm.regularizers).check(objective, tasks, recipe.meta_batch_size)
    name = parse_calls(arm.learner)[0].name
    tuned = ", ".join(f"{key}={value}" for key, value in recipe.tuned(name).items())
    return {
        "learner": arm.learner,
        "regularizers": arm.regularizers,
        "settings": f"{name}({tuned}), overridden by {arm.learner}" if tuned else arm.learner,
        "parameters": sum(p.numel() for p in objective.parameters()),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on.

    >>> sorted(versions())[:2]
    ['lightning-fabric', 'numpy']
    """
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
