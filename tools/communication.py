"""Print what several processes cost here: constants of communication, seconds per step, and a model of both.

    python tools/communication.py

Two processes exchange messages over gloo on this machine, from which latency and bandwidth of each collective
are fitted. Steps are timed with one process, and with two that share the tasks; processor time stands beside
the time on the clock, since other programs may run. All times are the least of several. Rows without a time
are predictions from these constants, by the formula in `paper/performance.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import nnls
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from metalens import MAML, Objective, Sinusoid, TRLearner, conv4, mlp
from metalens.execution.malloc import keep_freed_memory
from metalens.io.provenance import commit
from metalens.objective import outer_loss
from metalens.processes import Processes
from metalens.tasks import Examples, Task

SIZES = [4 * 4**exponent for exponent in range(13)]  # bytes, 4 B to 64 MB
REAL = 4  # bytes of a number in single precision
N_WAY, N_QUERY = 5, 25


@dataclass(frozen=True)
class Workload:
    """An outer step of MAML with TRLearner, all pairs.

    Attributes:
        title: what the tables call it.
        images: Conv4-64 on 28x28 images, 5-way 1-shot with 25 queries; else a perceptron of 2 x 40 units on
            sinusoids, 10-shot with 10 queries.
        timed: numbers of tasks at which the step of one process is timed.
        n_tasks: of the steps that two processes share.
        predicted: number of tasks of the prediction.
    """

    title: str
    images: bool
    timed: tuple[int, ...]
    n_tasks: int
    predicted: int

    def objective(self) -> Objective:
        torch.manual_seed(0)
        learner = MAML(conv4(N_WAY)) if self.images else MAML(mlp())
        return Objective(learner, [TRLearner()])

    def tasks(self, n: int) -> Task:
        if not self.images:
            return Sinusoid("train", k_shot=10, n_query=10).batch(range(n))
        torch.manual_seed(1)
        y = torch.arange(N_WAY).expand(n, -1)
        return Task(
            Examples(torch.randn(n, N_WAY, 1, 28, 28), y.contiguous()),
            Examples(torch.randn(n, N_QUERY, 1, 28, 28), y.repeat(1, N_QUERY // N_WAY)),
        )


WORKLOADS = (
    Workload("sinusoids, perceptron", False, (4, 8, 16, 32, 64), 32, 64),
    Workload("images, Conv4-64", True, (3, 4, 6, 8), 8, 64),
)


def least(function: Callable[[], object], seconds: float, least_runs: int = 3) -> tuple[float, float]:
    """Return the shortest time on the clock and the least processor time of a function."""
    function()
    clocks, used, begin = [], [], time.perf_counter()
    while len(clocks) < least_runs or time.perf_counter() - begin < seconds:
        clock, cpu = time.perf_counter(), time.process_time()
        function()
        clocks.append(time.perf_counter() - clock)
        used.append(time.process_time() - cpu)
    return min(clocks), min(used)


def step(module: nn.Module, tasks: Task) -> None:
    """Make the losses of a step and its gradient."""
    module.zero_grad()
    outer_loss(module(tasks)).backward()


def two_processes(rank: int, folder: str) -> None:
    """Time messages and shared steps; process 0 writes the results."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    processes = Processes(rank, 2)
    results = {"messages": [messages(size) for size in SIZES], "steps": []}
    for workload in WORKLOADS:
        objective = workload.objective()
        objective.processes = processes
        module = DistributedDataParallel(objective)
        tasks = workload.tasks(workload.n_tasks)
        own = processes.shard(range(workload.n_tasks))
        share = pytree.tree_map(lambda tensor, own=own: tensor[own.start : own.stop], tasks)
        times = 20 if workload.images else 300
        results["steps"].append(repeated(partial(step, module, share), times))
    if rank == 0:
        torch.save(results, f"{folder}/results")
    dist.destroy_process_group()


def repeated(function: Callable[[], object], times: int) -> tuple[float, float]:
    """Like `least`, with the same number of calls in every process."""
    return least(function, 0.0, times)


def messages(size: int) -> list[float]:
    """Return the time of each collective, with messages of so many bytes."""
    times = 10 if size > 2**22 else 100
    message, halves = torch.zeros(size // REAL), torch.zeros(2 * (size // REAL))
    parts, received = [torch.empty_like(message) for _ in range(2)], torch.empty_like(halves)
    collectives = (
        lambda: dist.all_gather(parts, message),
        lambda: dist.all_to_all_single(received, halves),
        lambda: dist.all_reduce(message),
    )
    return [repeated(collective, times)[0] for collective in collectives]


def line(sizes: list[int], seconds: np.ndarray) -> tuple[float, float]:
    """Return latency in seconds, and bandwidth in bytes per second, with the least relative error."""
    design = np.stack([1 / seconds, np.array(sizes) / seconds], axis=1)
    (latency, per_byte), _ = nnls(design, np.ones(len(sizes)))
    return float(latency), 1 / float(per_byte)


def computing(workload: Workload) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Return the c, a, b of a step of T tasks, `c + a T + b T^2` seconds of a processor, and the timings."""
    objective = workload.objective()
    timings = [
        least(partial(step, objective, workload.tasks(n)), 3.0 if workload.images else 1.0)
        for n in workload.timed
    ]
    used = np.array([cpu for _, cpu in timings])
    sizes = np.array(workload.timed, dtype=float)
    design = np.stack([sizes**0, sizes, sizes**2], axis=1) / used[:, None]
    return nnls(design, np.ones(len(used)))[0], timings


def communicating(workload: Workload, n: int, constants: list[tuple[float, float]], n_tasks: int) -> float:
    """Return the seconds that a step communicates: two gathers, their gradients, and two all-reduces."""
    if n == 1:
        return 0.0
    objective = workload.objective()
    adapted = sum(p.numel() for p in objective.learner.adapted_parameters().values())
    trained = sum(p.numel() for p in objective.parameters())
    features = objective.learner.network.n_features
    (gather, gathered), (deal, dealt), (reduce, reduced) = constants
    others = REAL * n_tasks * (adapted + features) * (n - 1) / n
    forward = 2 * (n - 1) * gather + others / gathered
    backward = 2 * (n - 1) * deal + others / dealt
    return forward + backward + (n - 1) * 2 * reduce + 2 * (n - 1) / n * REAL * trained / reduced


def tell(workload: Workload, shared: tuple[float, float], constants: list[tuple[float, float]]) -> None:
    """Print what was measured of a workload, and what the model says to it."""
    (c, a, b), timings = computing(workload)
    print(f"\n**{workload.title}**: `{1e3 * c:.3g} + ({1e3 * a:.3g} T + {1e3 * b:.3g} T^2) / N` ms\n")
    print("| processes | tasks | clock | processor | model: computing | communicating |")
    print("|---" * 6 + "|")
    measured = [(1, tasks, *timing) for tasks, timing in zip(workload.timed, timings, strict=True)]
    predicted = [(n, workload.predicted, None, None) for n in (1, 2, 8, 64)]
    for n, tasks, *seconds in [*measured, (2, workload.n_tasks, *shared), *predicted]:
        model = c + (a * tasks + b * tasks**2) / n, communicating(workload, n, constants, tasks)
        cells = ["" if value is None else f"{1e3 * value:.4g} ms" for value in (*seconds, *model)]
        print(f"| {n} | {tasks} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure, and print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(two_processes, (folder,), nprocs=2)
        results = torch.load(f"{folder}/results")
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, commit {commit()}.\n")
    seconds = np.array(results["messages"])
    constants = [line(SIZES, seconds[:, column]) for column in range(3)]
    print("| bytes to each other process | all-gather | all-to-all | all-reduce |\n|---|---|---|---|")
    for size, row in zip(SIZES, seconds, strict=True):
        print(f"| {size:,} | " + " | ".join(f"{1e3 * value:.3g} ms" for value in row) + " |")
    print("| fitted latency | " + " | ".join(f"{1e6 * latency:.3g} us" for latency, _ in constants) + " |")
    print("| fitted bandwidth | " + " | ".join(f"{rate / 1e9:.2g} GB/s" for _, rate in constants) + " |")
    for workload, shared in zip(WORKLOADS, results["steps"], strict=True):
        tell(workload, shared, constants)


if __name__ == "__main__":
    main()
