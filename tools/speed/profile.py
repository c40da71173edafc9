"""Where the time of an outer step goes, in recipes as `metalens run` executes them."""

from __future__ import annotations

import io
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from metalens import AdaptedTasks, Machine, MetaLensError, Objective, TaskDistribution, fit
from metalens.cli.run import LiveProgress
from metalens.execution.compiling import CompiledObjective
from metalens.execution.malloc import keep_freed_memory
from metalens.experiments import RECIPES, Recipe
from metalens.experiments.arms import Arm, Cell, arms_of
from metalens.objective import outer_loss
from metalens.training.progress import REFRESH_RATE

Seconds = dict[str, list[float]]  # by piece, one entry a round

# What is timed, and what is reported.
BATCH, ADAPT, LOSSES, OPTIMIZER, WHOLE = "batch", "adaptation", "losses", "optimizer", "whole step"
QUERY, REGULARIZE, PROGRAM, REST = "query losses", "TRLearner", "program", "rest"

EXPLANATION = (
    "Shares of an outer step of `metalens run`. Batch: drawing tasks, or gathering images. Adaptation: the "
    "inner loop forward, or features of the support set. Query losses: with the gradient of the outer loss, "
    "back through the inner loop. TRLearner: what losses and gradient take longer than in the row above. A "
    "compiled program does these three in one. Rest: what is left of a step of `fit` (Fabric, the learning "
    "curve, the progress bar), so that it has the noise of all others."
)


@dataclass(frozen=True)
class Profiled:
    """Arms of a recipe, each without and with TRLearner."""

    recipe: Recipe
    compiled: bool = False


PROFILED = {
    "Sinusoids": Profiled(RECIPES["sinusoid-10shot"]),
    "Sinusoids, compiled": Profiled(RECIPES["sinusoid-10shot"], compiled=True),
    "Omniglot, Conv4": Profiled(replace(RECIPES["omniglot-5w1s"], learner=["ANIL", "ProtoNet", "MAML"])),
}


def measure(rounds: int, seconds: float) -> dict[str, dict[str, Seconds]]:
    """Return the seconds of the pieces of a step, by title and arm."""
    keep_freed_memory()
    measured = {}
    for title, profiled in PROFILED.items():
        try:
            measured[title] = {
                str(arm): measure_arm(arm, profiled, rounds, seconds) for arm in arms_of(profiled.recipe)
            }
        except MetaLensError as error:  # images that are not on this machine
            print(f"{title} is left out: {error}", file=sys.stderr)
    return measured


def measure_arm(arm: Arm, profiled: Profiled, rounds: int, seconds: float) -> Seconds:
    """Return the seconds of every piece, and of the whole step of `fit` with its progress bar, in turns."""
    recipe = profiled.recipe
    tasks, meta_batch_size = recipe.distribution("train", seed=0), recipe.meta_batch_size
    trained, taken_apart = (arm.build(recipe, seed=0) for _ in range(2))
    for objective in (trained, taken_apart):
        objective.batching = objective.learner.plan(recipe.machine.batching)
    module = CompiledObjective(taken_apart) if profiled.compiled else taken_apart
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.outer_lr, fused=True)
    pieces(module, tasks, optimizer, meta_batch_size, 1)
    n = max(1, round(seconds / sum(pieces(module, tasks, optimizer, meta_batch_size, 1).values())))
    times: Seconds = defaultdict(list)
    with Progress(
        console=Console(file=io.StringIO(), force_terminal=True), refresh_per_second=REFRESH_RATE
    ) as display:
        watcher, begun = LiveProgress(display, 1), [0.0]

        def progress(step: int, loss: float) -> None:
            watcher.step(step, loss)
            if step % n == 0:
                whole = (time.perf_counter() - begun[0]) / n
                for name, total in pieces(module, tasks, optimizer, meta_batch_size, n).items():
                    times[name].append(total / n)
                times[WHOLE].append(whole)
                begun[0] = time.perf_counter()

        steps = (rounds + 1) * n
        watcher.start_training([Cell(arm, 0)], steps)
        fit(
            trained,
            tasks,
            steps=steps,
            meta_batch_size=meta_batch_size,
            machine=Machine(compile=profiled.compiled),
            on_step=progress,
        )
    return {name: of[1:] for name, of in times.items()}  # the first round had what precedes the first step


def pieces(
    module: Objective | CompiledObjective,
    tasks: TaskDistribution,
    optimizer: torch.optim.Optimizer,
    meta_batch_size: int,
    n: int,
) -> dict[str, float]:
    """Make n outer steps as `fit` does, and return the seconds of their pieces.

    The losses, with their gradient, contain an adaptation; another one is made, and timed by itself.
    """
    watch = _Watch()
    for step in range(n):
        batch = tasks.batch(range(step * meta_batch_size, (step + 1) * meta_batch_size))
        watch.lap(BATCH)
        if isinstance(module, CompiledObjective):
            outer_loss(module(batch)).backward()
            watch.lap(LOSSES)
        else:
            _ = AdaptedTasks(module.learner, batch, module.batching).states
            watch.lap(ADAPT)
            outer_loss(module(batch)).backward()
            watch.lap(LOSSES)
        optimizer.step()
        optimizer.zero_grad()
        watch.lap(OPTIMIZER)
    return watch.seconds


class _Watch:
    """A stopwatch that adds up laps by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = time.perf_counter()


def shares(arms: Mapping[str, Seconds]) -> list[dict[str, float]]:
    """Return a row for every arm: the seconds of a step, and which share of them every piece has.

    The row of an arm with TRLearner follows that of the same arm without it; what losses and their gradient
    take longer counts to TRLearner.
    """
    rows, plain = [], {}
    for name, times in arms.items():
        median = {piece: float(np.median(of)) for piece, of in times.items()}
        if " + " not in name:
            plain = median
        whole = median[WHOLE]
        row = {BATCH: median[BATCH]}
        if ADAPT in median:
            row[ADAPT] = median[ADAPT]
            row[QUERY] = plain[LOSSES] - median[ADAPT]
            row[REGULARIZE] = median[LOSSES] - plain[LOSSES]
        else:
            row[PROGRAM] = median[LOSSES]
        row[OPTIMIZER] = median[OPTIMIZER]
        row[REST] = whole - sum(row.values())
        rows.append({WHOLE: whole} | {piece: value / whole for piece, value in row.items()})
    return rows


def table(title: str, arms: Mapping[str, Seconds], threads: str) -> list[str]:
    """Return the table of one title."""
    rows = shares(arms)
    columns = [piece for piece in rows[0] if piece != WHOLE]
    lines = [
        f"### {title}: where the time goes",
        "",
        f"| | ms, {threads} | " + " | ".join(columns) + " |",
        "|---" + "|--:" * (len(columns) + 1) + "|",
    ]
    for name, row in zip(arms, rows, strict=True):
        cells = [f"{1e3 * row[WHOLE]:.3g}", *(f"{row[piece]:.1%}" for piece in columns)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]
