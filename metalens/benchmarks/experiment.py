"""Run a recipe: every arm on every seed, on identical tasks, into one folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import pandas as pd
import torch

from metalens.benchmarks.arms import Arm, Cell, arms_of, groups_of, runs_of
from metalens.benchmarks.calls import build_sampler, parse_calls
from metalens.benchmarks.devices import fabric_of, n_processes
from metalens.benchmarks.outcomes import Outcome, Outcomes
from metalens.benchmarks.provenance import commit
from metalens.benchmarks.recipe import Recipe
from metalens.benchmarks.relating import relate
from metalens.benchmarks.trackers import TrackerName, Trackers, check_trackers
from metalens.benchmarks.workers import as_completed
from metalens.checkpoint import Checkpoints
from metalens.distributions import Split, TaskDistribution
from metalens.errors import DivergenceError, MetaLensError
from metalens.evaluation import evaluate, mean_scores, undefined_scores
from metalens.execution import Execution
from metalens.files import MANIFEST, atomic_path
from metalens.identity import source_digest
from metalens.learners import GradientLearner, Learner
from metalens.objective import Objective
from metalens.outer_loop import Run
from metalens.regularizers import TRLearner
from metalens.training import CHECKPOINT_EVERY, prepared, processes_of, train, training_tasks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

N_CURVES = 4  # test tasks drawn in the report
N_RELATED = 20  # test tasks in the relation map
VERSIONS = ("torch", "numpy", "scipy", "pandas", "lightning-fabric", "safetensors")

RESULT_COLUMNS = [
    "recipe", "learner", "regularizers", "seed", "split", "domain", "task", "source", "metric", "value",
]  # fmt: skip
CURVE_COLUMNS = ["learner", "regularizers", "seed", "step", "split", "metric", "value"]


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
    arms = arms_of(recipe)
    descriptions = [_describe(arm, recipe) for arm in arms]  # assembles each arm: mistakes show at once
    fabric = fabric_of(recipe)
    processes = processes_of(fabric)
    outcomes = None if folder is None else Outcomes(folder, arms)
    if processes.collect([outcomes is not None and outcomes.are_complete(asdict(recipe))])[0]:
        return
    # Now, lest missing or damaged test data are found after hours.
    data = {split: recipe.distribution(split, recipe.seeds[0]).facts() for split in get_args(Split)}
    now, clock, source = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter(), commit()
    with _threads(recipe.threads):
        identity = {**asdict(recipe), **versions(), "source": source_digest()}
        identity["threads"] = torch.get_num_threads()
        divide = partial(groups_of, recipe, fabric)
        plan = processes.collect([outcomes and outcomes.plan(identity, now, divide)])[0]
        assert plan is not None  # that of the first process
        for cell in plan.done:
            if outcomes is not None:
                done = outcomes.read(cell)
                watcher.end_cell(cell, done.scores, done.facts["diverged"])
        jobs = [
            Job(
                group,
                [cell for cell in group if cell not in plan.done],
                None if outcomes is None else outcomes.checkpoints(group),
            )
            for group in plan.groups
        ]
        jobs = [job for job in jobs if job.left]
        tracked = None if folder is None else Trackers(trackers, folder, recipe, plan.started)
        for outcome in _outcomes(recipe, jobs, fabric, watcher, checkpoint_every, tracked):
            if outcomes is not None:
                outcomes.write(outcome, plan.seconds + time.perf_counter() - clock)
                watcher.end_cell(outcome.cell, outcome.scores, outcome.facts["diverged"])
    if folder is None or outcomes is None:
        return
    in_order = [outcomes.read(Cell(arm, seed)) for arm in arms for seed in recipe.seeds]
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
            with atomic_path(folder / f"{name}.csv") as path:
                pd.concat(full or frames, ignore_index=True).to_csv(path, index=False)
    manifest = {
        "metalens": version("metalens"),
        "recipe": recipe.name,
        "description": recipe.description,
        "command": command,
        "configuration": asdict(recipe),
        "arms": descriptions,
        "data": data,
        "versions": versions(),
        "commit": source,
        "device": str(fabric.device),
        "processes": fabric.world_size,
        "processor": platform.processor() or platform.machine(),
        "threads": recipe.threads or torch.get_num_threads(),
        "started": plan.started,
        "seconds": plan.seconds + time.perf_counter() - clock,
        "cells": [outcome.facts for outcome in in_order],
    }
    with atomic_path(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    outcomes.forget()


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
                settings = (recipe.steps, recipe.meta_batch, recipe.compile)
                with prepared(runs_of(recipe, group), *settings, fabric) as (_, execution):
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
            run.listeners.loggers = trackers.open(cell)
    loop = recipe.outer_loop()
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
            runs, loop, compile=recipe.compile, seed=cells[0].seed, checkpoints=checkpoints, fabric=fabric,
            progress=watcher.step, on_execution=note,
        )  # fmt: skip
    seconds = time.perf_counter() - begin + (0.0 if checkpoints is None else checkpoints.seconds)
    facts["train_seconds"] = seconds / len(cells)
    for cell, run in zip(cells, runs, strict=True):
        if cell in job.left:
            outcome = _test(recipe, cell, run, {**facts, "diverged": run.diverged}, fabric)
            if trackers is not None:
                trackers.close(run.listeners.loggers, cell, outcome.scores)
            yield outcome


def _test(recipe: Recipe, cell: Cell, run: Run, facts: dict[str, Any], fabric: Fabric) -> Outcome:
    """Score what was trained, and describe it where it is of the first seed."""
    (arm, seed), objective = cell, run.objective.eval()
    labels = {"learner": arm.learner, "regularizers": arm.regularizers, "seed": seed}
    begin = time.perf_counter()
    test = recipe.distribution("test", seed)
    if run.has_weights:
        scores = evaluate(
            objective.learner,
            test,
            n_tasks=recipe.n_test_tasks,
            batching=objective.batching,
            chunk=objective.chunk,
            processes=processes_of(fabric),
        )
    else:
        scores = undefined_scores(test, n_tasks=recipe.n_test_tasks)
    is_described = run.has_weights and seed == recipe.seeds[0]
    curves = _curves(objective.learner, recipe, seed) if is_described else []
    relations = _relations(objective, recipe, seed) if is_described else []
    return Outcome(
        cell,
        objective.state_dict(),
        mean_scores(scores),
        {**labels, **facts, "test_seconds": time.perf_counter() - begin},
        {
            "results": [_results(scores.assign(recipe=recipe.name, **labels), test)],
            "metrics": [run.curve().assign(**labels)[CURVE_COLUMNS]],
            "curves": [frame.assign(**labels) for frame in curves],
            "relations": [frame.assign(**labels) for frame in relations],
        },
    )


def _results(scores: pd.DataFrame, test: TaskDistribution) -> pd.DataFrame:
    """Return the scores with the columns of the results, those of names only where there are names."""
    names = {
        "domain": [test.domain(task) or "" for task in scores["task"]],
        "source": [test.drawn_from(task) or "" for task in scores["task"]],
    }
    splits = ["test_unseen" if domain in test.unseen_domains else "test" for domain in names["domain"]]
    labeled = scores.assign(split=splits, **names)[RESULT_COLUMNS]
    return labeled.drop(columns=[name for name, of_tasks in names.items() if not any(of_tasks)])


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
    objective.check_meta_batch(recipe.meta_batch, n_processes(recipe))
    tasks = training_tasks(objective.learner, recipe.distribution("train", recipe.seeds[0]))
    build_sampler(arm.regularizers).check(objective, tasks, recipe.meta_batch)
    name = parse_calls(arm.learner)[0].name
    tuned = ", ".join(f"{key}={value}" for key, value in recipe.tuned(name).items())
    return {
        "learner": arm.learner,
        "regularizers": arm.regularizers,
        "settings": f"{name}({tuned}), overridden by {arm.learner}" if tuned else arm.learner,
        "parameters": sum(p.numel() for p in objective.parameters()),
    }


def _curves(learner: Learner, recipe: Recipe, seed: int) -> Iterator[pd.DataFrame]:
    """Yield the curves of a few test tasks before and after adaptation, for learners that have a before."""
    dense = recipe.curve_distribution(seed)
    if dense is None or not isinstance(learner, GradientLearner):
        return
    test = recipe.distribution("test", seed)
    for number in range(N_CURVES):
        parts = {"support": test[number].support, "query": dense[number].query}
        with torch.no_grad():
            model = learner(parts["support"])
            x, y = (tensor.to(learner.device) for tensor in parts["support"])
            start = learner.initial_state(learner.encode(x), y)
            for part, examples in parts.items():
                x, y = (tensor.to(learner.device) for tensor in examples)
                columns = {"x": x, "y": y, "before": learner.predict(start, x), "after": model(x)}
                values = {name: tensor.flatten().tolist() for name, tensor in columns.items()}
                yield pd.DataFrame({"task": number, "part": part, **values})


def _relations(objective: Objective, recipe: Recipe, seed: int) -> Iterator[pd.DataFrame]:
    """Yield the relation map of a few test tasks, for arms that learn one."""
    for regularizer in objective.regularizers:
        if isinstance(regularizer, TRLearner) and regularizer.relations != "uniform":
            yield relate(objective.learner, regularizer, recipe.distribution("test", seed), N_RELATED).pairs()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on.

    >>> sorted(versions())[:2]
    ['lightning-fabric', 'numpy']
    """
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
