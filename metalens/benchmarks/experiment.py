"""Run a recipe: every arm on every seed, on identical tasks, into one folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

import pandas as pd
import torch
from safetensors.torch import save_file
from torch.utils import _pytree as pytree

from metalens.benchmarks.calls import build_learner, build_regularizers, parse_calls, refuses_regularizers
from metalens.benchmarks.provenance import commit
from metalens.benchmarks.recipe import Recipe
from metalens.distributions import Split
from metalens.episode import Episode
from metalens.errors import MetaLensError
from metalens.evaluation import evaluate, mean_scores
from metalens.execution import Execution
from metalens.files import MANIFEST
from metalens.learners import GradientLearner, Learner
from metalens.objective import Objective
from metalens.outer_loop import Run, Validation
from metalens.regularizers import TRLearner
from metalens.replicas import ReplicationError
from metalens.training import fit_together, prepared, training_tasks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

N_CURVES = 4  # test tasks drawn in the report
N_RELATED = 20  # test tasks in the relation map
VERSIONS = ("torch", "numpy", "scipy", "pandas", "lightning-fabric", "safetensors")

T = TypeVar("T")

RESULT_COLUMNS = ["recipe", "learner", "regularizers", "seed", "split", "task", "metric", "value"]
CURVE_COLUMNS = ["learner", "regularizers", "seed", "step", "split", "metric", "value"]


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


class Trained(NamedTuple):
    """An arm, trained with one seed."""

    seed: int
    objective: Objective
    curve: pd.DataFrame
    facts: dict[str, Any]  # how, and how long


class Watcher:
    """Told what an experiment is doing; does nothing unless overridden."""

    def start_training(self, arm: Arm, seeds: Sequence[int], steps: int) -> None:
        """Training of one arm begins, with one seed or with several side by side."""

    def execution(self, arm: Arm, execution: Execution) -> None:
        """The way this training's steps are executed was chosen."""

    def step(self, step: int, loss: float) -> None:
        """An outer step was taken."""

    def end_cell(self, arm: Arm, seed: int, scores: dict[str, float]) -> None:
        """One arm with one seed was trained and tested; mean test scores by metric."""


def run(recipe: Recipe, folder: Path, *, command: str = "", watcher: Watcher | None = None) -> None:
    """Train and test every arm with every seed, and write the run's files into a folder.

    Args:
        recipe: what to run.
        folder: an empty folder, filled with `results.csv`, `metrics.csv`, `manifest.json`,
            `weights/*.safetensors` and, where they apply, `curves.csv` and `relations.csv`.
        command: the command that repeats the run, for the manifest.
        watcher: told about progress.

    Raises:
        MetaLensError: the recipe cannot be assembled, or training diverged.
    """
    watcher = watcher or Watcher()
    arms = arms_of(recipe)
    descriptions = [_describe(arm, recipe) for arm in arms]  # assembles each arm: mistakes show at once
    fabric = _fabric(recipe)
    started, clock, source = datetime.now(UTC), time.perf_counter(), commit()
    tables: dict[str, list[pd.DataFrame]] = {"results": [], "metrics": [], "curves": [], "relations": []}
    cells = []
    (folder / "weights").mkdir()
    with _threads(recipe.threads):
        for number, arm in enumerate(arms):
            train = partial(_train, arm, recipe, fabric, watcher)
            for trained in chain.from_iterable(_all_or_each(recipe, train)):
                seed, objective, curve, facts = trained
                labels = {"learner": arm.learner, "regularizers": arm.regularizers, "seed": seed}
                begin = time.perf_counter()
                test = recipe.distribution("test", seed)
                scores = evaluate(
                    objective.learner, test, n_tasks=recipe.n_test_tasks, batching=objective.batching
                )
                cells.append({**labels, **facts, "test_seconds": time.perf_counter() - begin})
                tables["results"].append(
                    scores.assign(recipe=recipe.name, split="test", **labels)[RESULT_COLUMNS]
                )
                tables["metrics"].append(curve.assign(**labels)[CURVE_COLUMNS])
                save_file(objective.state_dict(), folder / "weights" / f"arm{number}-seed{seed}.safetensors")
                if seed == recipe.seeds[0]:
                    tables["curves"] += [f.assign(**labels) for f in _curves(objective.learner, recipe, seed)]
                    tables["relations"] += [f.assign(**labels) for f in _relations(objective, recipe, seed)]
                watcher.end_cell(arm, seed, mean_scores(scores))
    for name, frames in tables.items():
        if frames:
            pd.concat(frames, ignore_index=True).to_csv(folder / f"{name}.csv", index=False)
    manifest = {
        "metalens": version("metalens"),
        "recipe": recipe.name,
        "description": recipe.description,
        "command": command,
        "configuration": asdict(recipe),
        "arms": descriptions,
        "data": {split: recipe.distribution(split, recipe.seeds[0]).facts() for split in get_args(Split)},
        "versions": _versions(),
        "commit": source,
        "device": str(fabric.device),
        "processor": platform.processor() or platform.machine(),
        "threads": recipe.threads or torch.get_num_threads(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - clock,
        "cells": cells,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def explain(recipe: Recipe) -> Iterator[tuple[Arm, Execution]]:
    """Yield the arms of a recipe, each with the way in which the steps of its training would be executed.

    Raises:
        MetaLensError: the recipe cannot be assembled.
    """
    fabric = _fabric(recipe)

    def execution(arm: Arm, seeds: Sequence[int]) -> Execution:
        runs = [
            Run(objective, training_tasks(objective.learner, recipe.distribution("train", seed)))
            for seed, objective in ((seed, arm.build(recipe, seed)) for seed in seeds)
        ]
        with prepared(runs, recipe.steps, recipe.meta_batch, recipe.compile, fabric) as (_, execution):
            return execution

    with _threads(recipe.threads):
        for arm in arms_of(recipe):
            yield arm, next(_all_or_each(recipe, partial(execution, arm)))


def _all_or_each(recipe: Recipe, work: Callable[[Sequence[int]], T]) -> Iterator[T]:
    """Yield what work makes of all seeds at once or, where they cannot be side by side, of each by itself."""
    if len(recipe.seeds) > 1 and recipe.together is not False:
        try:
            of_all = work(recipe.seeds)
        except ReplicationError:
            if recipe.together is True:
                raise
        else:
            yield of_all
            return
    for seed in recipe.seeds:
        yield work([seed])


def _train(arm: Arm, recipe: Recipe, fabric: Fabric, watcher: Watcher, seeds: Sequence[int]) -> list[Trained]:
    """Train an arm with some seeds side by side."""
    watcher.start_training(arm, seeds, recipe.steps)
    objectives = [arm.build(recipe, seed) for seed in seeds]
    validations = None
    if recipe.n_val_tasks:
        held_out = [recipe.distribution("val", seed) for seed in seeds]
        validations = [
            Validation(tasks, n_tasks=recipe.n_val_tasks, every=recipe.validate_every) for tasks in held_out
        ]
    facts: dict[str, Any] = {}

    def note(execution: Execution) -> None:
        facts["execution"] = str(execution)
        watcher.execution(arm, execution)

    begin = time.perf_counter()
    curves = fit_together(
        objectives,
        [recipe.distribution("train", seed) for seed in seeds],
        steps=recipe.steps,
        meta_batch=recipe.meta_batch,
        outer_lr=recipe.outer_lr,
        outer_optimizer=recipe.outer_optimizer,
        schedule=recipe.schedule,
        clip_norm=recipe.clip_norm,
        validations=validations,
        seed=seeds[0],
        compile=recipe.compile,
        fabric=fabric,
        progress=watcher.step,
        on_execution=note,
    )
    facts["train_seconds"] = (time.perf_counter() - begin) / len(seeds)
    return [
        Trained(seed, objective.eval(), curve, facts)
        for seed, objective, curve in zip(seeds, objectives, curves, strict=True)
    ]


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _fabric(recipe: Recipe) -> Fabric:
    from lightning_fabric import Fabric  # its import takes seconds, so only who trains waits for it

    try:
        return Fabric(accelerator=recipe.accelerator, devices=1)
    except (ValueError, RuntimeError) as error:
        raise MetaLensError(f"accelerator={recipe.accelerator!r} is not possible here: {error}") from None


def _describe(arm: Arm, recipe: Recipe) -> dict[str, Any]:
    objective = arm.build(recipe, seed=0)
    objective.check_meta_batch(recipe.meta_batch)
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
            tasks = recipe.distribution("test", seed).batch(range(N_RELATED))
            batch = pytree.tree_map(lambda tensor: tensor.to(objective.learner.device), tasks)
            with torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(seed)  # for shuffled relations
                episode = Episode(objective.learner, batch, recipe.batching)
                matrix = regularizer.relation_matrix(episode)
            rows, columns = torch.meshgrid(torch.arange(N_RELATED), torch.arange(N_RELATED), indexing="ij")
            yield pd.DataFrame(
                {
                    "row": rows.flatten().tolist(),
                    "column": columns.flatten().tolist(),
                    "relation": matrix.flatten().tolist(),
                }
            )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
