"""What it costs to train several seeds side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from lightning_fabric import Fabric
from torch import nn

from metalens import Objective, Sinusoid
from metalens.execution.malloc import keep_freed_memory
from metalens.training.fit import prepared
from metalens.training.outer_loop import OuterLoop
from metalens.training.run import Run
from tools.speed.timing import interleaved
from tools.speed.workloads import OUTER_LR, WORKLOADS, Workload

SEEDS = (1, 10)  # how many


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of a step of training, data and optimizer included, by table and row."""
    keep_freed_memory()
    workload = WORKLOADS["sinusoid-maml-1"]
    return {
        f"A step of `fit`, {workload.title}{', compiled' if compiled else ''}": measure_one(
            workload, compiled=compiled, rounds=rounds, seconds=seconds
        )
        for compiled in (False, True)
    }


def measure_one(workload: Workload, *, compiled: bool, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a step of training with one seed and with several."""
    fabric = Fabric(accelerator="cpu", devices=1)
    with ExitStack() as stack:
        functions = {}
        for n in SEEDS:
            runs = [_run(workload, seed) for seed in range(n)]
            steps = prepared(runs, 1, workload.n_tasks, compiled, fabric)
            module, _ = stack.enter_context(steps)
            functions["1 seed" if n == 1 else f"{n} seeds, side by side"] = training(
                module, runs, workload.n_tasks, fabric
            )
        return interleaved(functions, rounds=rounds, seconds=seconds)


def training(
    module: nn.Module, runs: list[Run], meta_batch_size: int, fabric: Fabric
) -> Callable[[int], None]:
    """Return a function that makes n steps of the outer loop."""

    def run(n: int) -> None:
        loop = OuterLoop(steps=n, meta_batch_size=meta_batch_size, outer_lr=OUTER_LR)
        loop.descend(module, runs, fabric, None)

    return run


def _run(workload: Workload, seed: int) -> Run:
    torch.manual_seed(seed)
    return Run(Objective(workload.learner()), Sinusoid(k_shot=10, n_query=10, seed=seed))
