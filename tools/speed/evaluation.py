"""Scoring 600 test tasks: `metalens.evaluate` against adapting and predicting one task after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from metalens import Learner, Task, TaskDistribution, evaluate
from metalens.metrics import task_metrics, usual_metrics
from tools.speed.timing import interleaved
from tools.speed.workloads import WORKLOADS, Workload

N_TASKS = 600
SINUSOID, CONV4 = WORKLOADS["sinusoid-maml-1"], WORKLOADS["conv4-anil-1"]
EVALUATED = {
    "MAML on sinusoids": SINUSOID,
    "ANIL on sinusoids": replace(SINUSOID, method="anil"),
    "ANIL on Conv4": CONV4,
    "ProtoNet on Conv4": replace(CONV4, method="protonet"),
}


class Stored(TaskDistribution):
    """Tasks that are ready in memory."""

    def __init__(self, tasks: Task) -> None:
        super().__init__("test")
        self.tasks = tasks

    def __getitem__(self, index: int) -> Task:
        return Task(*(type(part)(*(t[index] for t in part)) for part in self.tasks[:2]))

    def batch(self, indices: Sequence[int]) -> Task:
        rows = slice(indices[0], indices[-1] + 1)
        return Task(*(type(part)(*(t[rows] for t in part)) for part in self.tasks[:2]))


def measure(rounds: int, seconds: float, n_tasks: int = N_TASKS) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of scoring all tasks, by table and row."""
    return {
        f"{n_tasks} test tasks, {title}": measure_one(replace(workload, n_tasks=n_tasks), rounds, seconds)
        for title, workload in EVALUATED.items()
    }


def measure_one(workload: Workload, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the times of both ways, after a check that they give the same scores."""
    learner, tasks = workload.learner(), Stored(workload.tasks())
    ways = {"one task after the other": one_by_one, "metalens.evaluate": by_evaluate}
    scores = [way(learner, tasks, workload.n_tasks) for way in ways.values()]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-5)

    def run(way, n: int) -> None:
        for _ in range(n):
            way(learner, tasks, workload.n_tasks)

    return interleaved(
        {name: partial(run, way) for name, way in ways.items()}, rounds=rounds, seconds=seconds
    )


def by_evaluate(learner: Learner, tasks: TaskDistribution, n_tasks: int) -> np.ndarray:
    """Return the scores by the library's function."""
    rows: pd.DataFrame = evaluate(learner, tasks, n_tasks=n_tasks)
    metric = rows.metric.iloc[0]
    return rows[rows.metric == metric].value.to_numpy()


def one_by_one(learner: Learner, tasks: TaskDistribution, n_tasks: int) -> np.ndarray:
    """Return the scores by a loop."""
    scores = []
    with torch.no_grad():
        for i in range(n_tasks):
            task = tasks[i]
            predictions = learner(task.support)(task.query.x)
            y, known = task.query.y[None], task.support.y[None]
            metric = usual_metrics(y)[0]
            scores.append(task_metrics(predictions[None], y, known, [metric])[metric].item())
    return np.array(scores)
