"""Run a recipe: every arm on every seed, on identical tasks, into one folder."""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch

from metalens.data import Split
from metalens.errors import DivergenceError, MetaLensError
from metalens.execution.plan import Execution
from metalens.experiments.arms import Arm, Cell, Objectives, arms_of, groups_of, runs_of
from metalens.experiments.jobs import Job, Runner, Watcher
from metalens.experiments.recipe import Recipe
from metalens.experiments.store import FAILURES, CellResult, RunPlan, Store
from metalens.experiments.trackers import TrackerName, Trackers, check_trackers
from metalens.io.files import MANIFEST, atomic_path
from metalens.io.provenance import commit
from metalens.objective import Objective
from metalens.specs.calls import build_sampler, learner_call
from metalens.training.fingerprint import source_digest
from metalens.training.train import CHECKPOINT_EVERY, assembled, processes_of, training_tasks

VERSIONS = ("torch", "numpy", "scipy", "pandas", "lightning-fabric", "safetensors")


class Experiment:
    """A recipe in the folder for its files: planned, done job by job, and finished.

    It resumes from the files in the folder. So several processes can do the jobs, each with an `Experiment`
    in the same folder, after one has planned it and before one finishes it.

    Args:
        recipe: to run.
        folder: see `run`.

    Attributes:
        plan: of all cells; `None` if the experiment is complete.
        jobs: those that are left.

    Raises:
        MetaLensError: the recipe cannot be assembled; the folder has another run.
    """

    def __init__(self, recipe: Recipe, folder: Path | None) -> None:
        self.recipe, self.folder = recipe, folder
        self.arms, self._objectives = arms_of(recipe), Objectives(recipe)
        first = recipe.seeds[0]
        self._descriptions = [describe(arm, recipe, self._objectives[Cell(arm, first)]) for arm in self.arms]
        self._fabric = recipe.machine.fabric()
        self._store = None if folder is None else Store(folder, self.arms)
        self.plan: RunPlan | None = None
        self.jobs: list[Job] = []
        of_first = processes_of(self._fabric).gather_objects  # what the first process says
        if of_first([self._store is not None and self._store.is_complete(recipe)])[0]:
            return
        # Now, so that missing or damaged test data are found at once.
        self._data = {split: recipe.distribution(split, first).metadata() for split in get_args(Split)}
        now, self._clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        self._commit = commit()
        with recipe.machine.set_threads():
            identity = {**recipe.identity, **versions(), "source": source_digest()}
            identity["machine.threads"] = torch.get_num_threads()
            divide = partial(groups_of, recipe, self._fabric, self._objectives)
            self.plan = of_first([self._store and self._store.plan(identity, now, divide)])[0]
        assert self.plan is not None
        for group in self.plan.groups:
            checkpoints = None if self._store is None else self._store.checkpoints(group)
            if left := [cell for cell in group if cell not in self.plan.done]:
                self.jobs.append(Job(group, left, checkpoints))

    def clean(self) -> None:
        """Remove the files of killed writers; no process may be writing."""
        if self._store is not None:
            self._store.clean()

    def done(self) -> Iterator[CellResult]:
        """Yield the results of the cells that are done."""
        if self.plan is not None and self._store is not None:
            yield from map(self._store.read, self.plan.done)

    def do(
        self,
        jobs: Sequence[Job],
        watcher: Watcher,
        checkpoint_every: float = CHECKPOINT_EVERY,
        trackers: Sequence[TrackerName] = (),
    ) -> None:
        """Train and test the cells of jobs, and write their results."""
        if self.plan is None:
            return
        tracked = None
        if self.folder is not None:
            tracked = Trackers(trackers, self.folder, self.recipe, self.plan.started)
        runner = Runner(self.recipe, watcher, checkpoint_every, tracked)
        with self.recipe.machine.set_threads():
            for result in runner.results(jobs, self._fabric, self._objectives):
                if self._store is not None:
                    self._store.write(result, self._seconds())
                    watcher.end_cell(result.cell, result.scores, result.facts["diverged"])

    def finish(self, command: str = "", failures: Mapping[Cell, str] | None = None) -> None:
        """Write the tables and the manifest once all cells are done or have failed.

        Args:
            command: that repeats the run.
            failures: why cells failed; their arms are left out of the tables, and can be tried again.

        Raises:
            MetaLensError: all arms failed.
            DivergenceError: every training diverged.
        """
        if self.plan is None or self.folder is None or self._store is None:
            return
        failures = failures or {}
        failed = {cell.arm for cell in failures}
        if failed.issuperset(self.arms):
            raise MetaLensError(f"No arm of {self.recipe.name} was trained with all seeds.")
        arms = [arm for arm in self.arms if arm not in failed]
        results = [self._store.read(Cell(arm, seed)) for arm in arms for seed in self.recipe.seeds]
        if not any(result.is_scored for result in results):
            cell, step = results[0].cell, results[0].facts["diverged"]
            raise DivergenceError(
                f"Every training diverged, that of {cell.arm} with seed {cell.seed} at step {step}; lower "
                "inner_lr or outer_lr, or set clip_norm."
            )
        self._store.write_tables(results)
        manifest = self._manifest(results, command, failures)
        with atomic_path(self.folder / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if not failures:
            self._store.forget()

    def _manifest(
        self, results: Sequence[CellResult], command: str, failures: Mapping[Cell, str]
    ) -> dict[str, Any]:
        assert self.plan is not None
        recipe = self.recipe
        failed = [{**cell.arm._asdict(), "seed": cell.seed, "reason": why} for cell, why in failures.items()]
        return {
            "metalens": version("metalens"),
            "recipe": recipe.name,
            "description": recipe.description,
            "command": command,
            "configuration": recipe.configuration,
            "machine": asdict(recipe.machine),
            "arms": self._descriptions,
            "data": self._data,
            "versions": versions(),
            "commit": self._commit,
            "device": str(self._fabric.device),
            "processes": self._fabric.world_size,
            "processor": platform.processor() or platform.machine(),
            "threads": recipe.machine.threads or torch.get_num_threads(),
            "started": self.plan.started,
            "seconds": self._seconds(),
            "cells": [result.facts for result in results],
            FAILURES: failed,
        }

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

    In the folder of the same run, interrupted, finished cells are kept, and a training resumes from its last
    checkpoint. The results are bit-identical to those of an uninterrupted run.

    A training that diverges is a result: it is scored with the best weights validated before, and by NaN if
    there are none.

    Args:
        recipe: to run.
        folder: empty or of an interrupted run, filled with `results.csv`, `metrics.csv`, `manifest.json`,
            `weights/*.safetensors` and, if they apply, `curves.csv` and `relations.csv`; `None` in all but
            the first of several processes, the only one that writes.
        command: that repeats the run, for the manifest.
        watcher: progress callbacks.
        checkpoint_every: seconds between two checkpoints of a training, and between two reports to trackers.
        trackers: get a run for each cell, see `Trackers`.

    Raises:
        MetaLensError: the recipe cannot be assembled; the folder has another run; a tracker is not installed.
        DivergenceError: every training diverged.
    """
    watcher = watcher or Watcher()
    check_trackers(trackers)
    experiment = Experiment(recipe, folder)
    experiment.clean()
    for result in experiment.done():
        watcher.end_cell(result.cell, result.scores, result.facts["diverged"])
    experiment.do(experiment.jobs, watcher, checkpoint_every, trackers)
    experiment.finish(command)


def explain(recipe: Recipe) -> Iterator[tuple[Arm, Execution]]:
    """Yield the arms of a recipe, each with the execution that its training would use.

    Raises:
        MetaLensError: the recipe cannot be assembled, or is for several processes.
    """
    machine, objectives = recipe.machine, Objectives(recipe)
    if machine.n_processes > 1:
        raise MetaLensError("Several processes follow the rule, and measure nothing; explain devices=1.")
    fabric = machine.fabric()
    explained: set[Arm] = set()
    with machine.set_threads():
        for group in groups_of(recipe, fabric, objectives):
            arms = [arm for arm in dict.fromkeys(cell.arm for cell in group) if arm not in explained]
            if arms:
                runs, settings = runs_of(recipe, group, objectives), recipe.training(seed=0)
                with assembled(runs, settings, machine, fabric) as (_, _, execution):
                    yield from ((arm, execution) for arm in arms)
            explained.update(arms)


def describe(arm: Arm, recipe: Recipe, objective: Objective) -> dict[str, Any]:
    """Return the entry of an arm in the manifest.

    Raises:
        MetaLensError: the arm cannot be trained on the tasks of the recipe.
    """
    objective.check_meta_batch_size(recipe.meta_batch_size, recipe.machine.n_processes)
    tasks = training_tasks(objective.learner, recipe.distribution("train", recipe.seeds[0]))
    build_sampler(arm.sampler).check(objective, tasks, recipe.meta_batch_size)
    name = learner_call(arm.learner).name
    tuned = ", ".join(f"{key}={value}" for key, value in recipe.tuned(name).items())
    return {
        **arm._asdict(),
        "settings": f"{name}({tuned}), overridden by {arm.learner}" if tuned else arm.learner,
        "parameters": sum(p.numel() for p in objective.parameters()),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numbers.

    >>> sorted(versions())[:2]
    ['lightning-fabric', 'numpy']
    """
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
