"""Time and peak memory of an outer step against inner steps, in reverse and in mixed mode.

    python -m tools.speed --parts differentiation
    python -m tools.speed.differentiation kept mixed 10

The second form is one measurement: it prints the seconds in a process that keeps freed memory or, with
`given-back`, the seconds and MiB in one that does not. A measurement that would not fit into memory is left
out; its memory is told from those of fewer steps.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable

import torch

from metalens import MAML, Examples, Objective, Task, conv4
from metalens.execution.malloc import keep_freed_memory
from metalens.execution.memory import SHARE, available_bytes
from metalens.objective import outer_loss
from tools.speed.machine import ROOT, thread_environment
from tools.speed.memory import ENVIRONMENT, PROCESS, held
from tools.speed.timing import elapsed

MODES = ("reverse", "mixed")
INNER_STEPS = (1, 5, 10, 20, 50)
N_WAY, N_SUPPORT, N_QUERY, SIZE = 5, 25, 75, 84
Figures = dict[str, dict[str, list[float]]]


def measure(rounds: int, seconds: float) -> Figures:
    """Return seconds and MiB by mode and inner steps; a quick run takes fewer inner steps."""
    inner_steps = INNER_STEPS if rounds > 3 else INNER_STEPS[:2]
    figures: Figures = {}
    for mode in MODES:
        memory: dict[int, float] = {}
        for n in inner_steps:
            expected = _extrapolated(memory, n)
            if expected > SHARE * available_bytes(torch.device("cpu")) / 2**20:
                figures[_name(mode, n)] = {"about MiB": [expected]}
                continue
            (kept,), (given_back, memory[n]) = (_measured(way, mode, n) for way in ("kept", "given-back"))
            figures[_name(mode, n)] = {"kept": [kept], "given back": [given_back], "MiB": [memory[n]]}
    return figures


def table(figures: Figures, threads: str) -> list[str]:
    """Return the table of `measure`."""
    columns = ("s, kept", "s, given back", "MiB")
    lines = [
        "### Reverse and mixed mode",
        "",
        f"An outer step of MAML on one task: Conv4-64, {SIZE}x{SIZE} images in color, {N_SUPPORT} support "
        f"and {N_QUERY} query images, {threads}. Each figure is of one step in a process of its own, which "
        "keeps freed memory or gives it back; memory is the peak of the latter above what it held before.",
        "",
        "| inner steps | " + " | ".join(f"{mode}: {column}" for column in columns for mode in MODES) + " |",
        "|---" + "|--:" * len(columns) * len(MODES) + "|",
    ]
    for n in INNER_STEPS:
        found = [figures[name] for mode in MODES if (name := _name(mode, n)) in figures]
        if found:
            kept, given_back = ([_text(of.get(way), ".1f") for of in found] for way in ("kept", "given back"))
            memory = [_text(of.get("MiB"), ".0f") or f"(about {of['about MiB'][0]:.0f})" for of in found]
            lines.append("| " + " | ".join([str(n), *kept, *given_back, *memory]) + " |")
    return [*lines, ""]


def _name(mode: str, n: int) -> str:
    return f"{mode}, {n} inner steps"


def _text(values: list[float] | None, form: str) -> str:
    return format(values[0], form) if values else ""


def _extrapolated(memory: dict[int, float], n: int) -> float:
    """Return the MiB of n inner steps by the line through the last two measured; 0 without two."""
    if len(memory) < 2:
        return 0.0
    (n1, mib1), (n2, mib2) = list(memory.items())[-2:]
    return mib2 + (mib2 - mib1) / (n2 - n1) * (n - n2)


def _measured(way: str, mode: str, n: int) -> list[float]:
    environment = thread_environment(torch.get_num_threads()) | (ENVIRONMENT if way == "given-back" else {})
    command = [sys.executable, "-m", "tools.speed.differentiation", way, mode, str(n)]
    return [
        float(word) for word in subprocess.check_output(command, cwd=ROOT, env=environment, text=True).split()
    ]


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


def _main(way: str, mode: str, n_inner_steps: str) -> None:
    if way == "kept":
        keep_freed_memory()
    step = _step(mode, int(n_inner_steps))
    if way == "kept":
        step()
        print(elapsed(lambda _: step(), 1))
        return
    gc.collect()
    (PROCESS / "clear_refs").write_text("5")
    before = held("VmRSS")
    seconds = elapsed(lambda _: step(), 1)
    print(seconds, held("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
