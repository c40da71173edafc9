"""Time and peak memory of an outer step against inner steps, in reverse and in mixed mode.

    python -m tools.speed --parts differentiation
    python -m tools.speed.differentiation mixed 10 kept

The second form is one measurement: it prints seconds of processor time and MiB, here in a process that keeps
freed memory. A measurement that would not fit into memory is left out; its memory is told from those of fewer
steps.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from metalens import MAML, Examples, Objective, Task, conv4
from metalens.execution.malloc import keep_freed_memory
from metalens.execution.memory import SHARE, available_bytes
from metalens.objective import outer_loss
from tools.speed.machine import ROOT, thread_environment
from tools.speed.memory import ENVIRONMENT, PROCESS, held

MODES = ("reverse", "mixed")
INNER_STEPS = (1, 5, 10, 20, 50)
N_WAY, N_SUPPORT, N_QUERY, SIZE = 5, 25, 75, 84
Figures = dict[str, dict[str, list[float]]]


def measure(rounds: int, seconds: float) -> Figures:
    """Return processor seconds and MiB by mode and inner steps; a quick run takes fewer inner steps."""
    figures: Figures = {}
    for mode in MODES:
        memory: dict[int, float] = {}
        for n in INNER_STEPS if rounds > 3 else INNER_STEPS[:2]:
            expected = _extrapolated(memory, n)
            if expected > SHARE * available_bytes(torch.device("cpu")) / 2**20:
                figures[_name(mode, n)] = {"about MiB": [expected]}
                continue
            took, memory[n] = _measured(mode, n)
            figures[_name(mode, n)] = {"s": [took], "MiB": [memory[n]]}
            print(_name(mode, n), figures[_name(mode, n)], file=sys.stderr, flush=True)
    return figures


def table(figures: Figures, threads: str) -> list[str]:
    """Return the table of `measure`."""
    columns = [f"{mode}: {unit}" for unit in ("s", "MiB") for mode in MODES]
    lines = [
        "### Reverse and mixed mode",
        "",
        f"An outer step of MAML on one task: Conv4-64, {SIZE}x{SIZE} images in color, {N_SUPPORT} support "
        f"and {N_QUERY} query images, {threads}. Each figure is of a process of its own, which "
        "does not keep freed memory: processor seconds, and the peak above what it held before.",
        "",
        "| inner steps | " + " | ".join(columns) + " |",
        "|---" + "|--:" * len(columns) + "|",
    ]
    for n in INNER_STEPS:
        found = [figures[name] for mode in MODES if (name := _name(mode, n)) in figures]
        if found:
            took = [format(of["s"][0], ".1f") if "s" in of else "" for of in found]
            memory = [
                format(of["MiB"][0], ".0f") if "MiB" in of else f"(about {of['about MiB'][0]:.0f})"
                for of in found
            ]
            lines.append("| " + " | ".join([str(n), *took, *memory]) + " |")
    return [*lines, ""]


def _name(mode: str, n: int) -> str:
    return f"{mode}, {n} inner steps"


def _extrapolated(memory: dict[int, float], n: int) -> float:
    """Return the MiB of n inner steps by the line through the last two measured; 0 without two."""
    if len(memory) < 2:
        return 0.0
    (n1, mib1), (n2, mib2) = list(memory.items())[-2:]
    return mib2 + (mib2 - mib1) / (n2 - n1) * (n - n2)


def _measured(mode: str, n: int) -> list[float]:
    environment = thread_environment(torch.get_num_threads()) | ENVIRONMENT
    command = [sys.executable, "-m", "tools.speed.differentiation", mode, str(n)]
    printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    return [float(word) for word in printed.split()]


def _step(mode: str, n_inner_steps: int) -> Callable[[], None]:
    """Return an outer step that is ready to be made: one of a single inner step was made before."""
    torch.manual_seed(0)
    learner = MAML(conv4(N_WAY, in_channels=3, image_size=SIZE))
    objective = Objective(learner)
    objective.batching, learner.differentiation = "loop", mode  # pyright: ignore[reportAttributeAccessIssue]

    def examples(n: int) -> Examples:
        return Examples(torch.randn(1, n, 3, SIZE, SIZE), torch.arange(n).remainder(N_WAY)[None])

    tasks = Task(examples(N_SUPPORT), examples(N_QUERY)).as_batch()

    def step() -> None:
        objective.zero_grad()
        outer_loss(objective(tasks)).backward()

    step()
    learner.inner_steps = n_inner_steps
    return step


def _main(mode: str, n_inner_steps: str, *kept: str) -> None:
    if kept:
        keep_freed_memory()
    step = _step(mode, int(n_inner_steps))
    if kept:
        step()
    gc.collect()
    (PROCESS / "clear_refs").write_text("5")
    before, started = held("VmRSS"), time.process_time()
    step()
    print(time.process_time() - started, held("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
