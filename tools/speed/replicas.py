"""What it costs to train several seeds side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from torch import nn

from metalens import Objective, Sinusoid
from metalens.execution.machine import Machine
from metalens.execution.malloc import keep_freed_memory
from metalens.execution.plan import Execution
from metalens.training.optimizer import Descent
from metalens.training.outer_loop import OuterLoop
from metalens.training.run import TrainingRun
from metalens.training.settings import TrainingSettings
from metalens.training.train import assembled
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
    machine = Machine(accelerator="cpu", compile=compiled)
    fabric = machine.fabric()
    with ExitStack() as stack:
        functions = {}
        for n in SEEDS:
            runs = [_run(workload, seed) for seed in range(n)]
            settings = TrainingSettings(steps=1, meta_batch_size=workload.n_tasks, outer_lr=OUTER_LR)
            module, descent, execution = stack.enter_context(assembled(runs, settings, machine, fabric))
            assert descent is not None
            functions["1 seed" if n == 1 else f"{n} seeds, side by side"] = training(
                settings, module, runs, fabric, execution, descent
            )
        return interleaved(functions, rounds=rounds, seconds=seconds)


def training(
    settings: TrainingSettings,
    module: nn.Module,
    runs: list[TrainingRun],
    fabric: Fabric,
    execution: Execution,
    descent: Descent,
) -> Callable[[int], None]:
    """Return a function that makes n steps of the outer loop."""

    def run(n: int) -> None:
        OuterLoop(replace(settings, steps=n), module, runs, fabric, execution, descent).run()

    return run


def _run(workload: Workload, seed: int) -> TrainingRun:
    torch.manual_seed(seed)
    return TrainingRun(Objective(workload.learner()), Sinusoid(k_shot=10, n_query=10, seed=seed))
