"""What TRLearner adds to an outer step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from metalens import Objective, TRLearner
from metalens.execution.compiling import CompiledObjective
from metalens.objective import outer_loss
from tools.speed.timing import interleaved
from tools.speed.workloads import OUTER_LR, WORKLOADS, Workload

SINUSOID, CONV4 = WORKLOADS["sinusoid-maml-1"], WORKLOADS["conv4-maml-1"]
# The literal term of MAML passes the network once for every pair of tasks: 8 tasks of images need gigabytes.
REGULARIZED = {
    "MAML on sinusoids, 25 tasks": SINUSOID,
    "MAML on sinusoids, 25 tasks, compiled": SINUSOID,
    "MAML on Conv4, 8 tasks": replace(CONV4, n_tasks=8),
    "ANIL on Conv4, 16 tasks": WORKLOADS["conv4-anil-1"],
    "ProtoNet on Conv4, 16 tasks": WORKLOADS["conv4-protonet"],
}


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of an outer step with and without the term, by table and row."""
    return {
        f"With TRLearner, {title}": interleaved(
            {
                name: outer_step(workload, settings, compiled="compiled" in title)
                for name, settings in variants(workload).items()
            },
            rounds=rounds,
            seconds=seconds,
        )
        for title, workload in REGULARIZED.items()
    }


def variants(workload: Workload) -> dict[str, dict[str, Any] | None]:
    """Return the settings of the regularizer by row; `None` is without."""
    few = 15 if workload.images else 3
    return {
        "no regularizer": None,
        "TRLearner()": {},
        "TRLearner(neighbors=3)": {"neighbors": 3},
        f"TRLearner(n_query_hat={few})": {"n_query_hat": few},
        "TRLearner(n_query_hat=1)": {"n_query_hat": 1},
        "TRLearner(n_tasks_hat=1)": {"n_tasks_hat": 1},
    }


def outer_step(
    workload: Workload, settings: dict[str, Any] | None, *, compiled: bool = False
) -> Callable[[int], None]:
    """Return a function that makes n outer steps."""
    learner, tasks = workload.learner(), workload.tasks()
    regularizers = [] if settings is None else [TRLearner(**settings)]
    objective = Objective(learner, regularizers)
    optimizer = torch.optim.Adam(objective.parameters(), lr=OUTER_LR)
    module = CompiledObjective(objective) if compiled else objective

    def run(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            outer_loss(module(tasks)).backward()
            optimizer.step()

    return run
