"""Check and time everything with one number of threads, in a process of its own.

    python -m tools.speed.measure 1 measured.json 15 0.3 sinusoid-maml-1 conv4-maml-1 - "JAX, vmap"

The arguments are the number of threads, the file to write, the rounds, the seconds of a batch of steps, the
workloads and, after a `-`, who is left out with images.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metalens.execution.malloc import keep_freed_memory
from tools.speed.equality import DiffersError, Reference
from tools.speed.implementation import IMPLEMENTATIONS, OURS, load
from tools.speed.machine import limit_threads, matmul_rate, useful_flops
from tools.speed.timing import interleaved
from tools.speed.workloads import WORKLOADS


def measure(
    threads: int, rounds: int, seconds: float, names: list[str], without: list[str]
) -> dict[str, Any]:
    """Return the times by workload and implementation, and what goes with them."""
    limit_threads(threads)
    keep_freed_memory()  # as `metalens run` does; everybody has it
    rate_before = matmul_rate()
    clock = time.process_time if threads == 1 else time.perf_counter
    workloads = {name: measure_workload(name, rounds, seconds, without, clock) for name in names}
    return {"threads": threads, "matmul_rate": max(rate_before, matmul_rate()), "workloads": workloads}


def measure_workload(
    name: str, rounds: int, seconds: float, without: list[str], clock: Callable[[], float]
) -> dict[str, Any]:
    """Return the times, the errors of the equality check, and who was left out and why.

    Raises:
        DiffersError: MetaLens does not compute what the others do.
    """
    workload = WORKLOADS[name]
    reference, runs, errors, refusals = Reference.of(workload), {}, {}, {}
    for title in IMPLEMENTATIONS:
        cls = load(title)
        reason = "not installed" if cls is None else cls.refusal(workload)
        if workload.images and title in without:
            reason = "left out by the command"
        if cls is None or reason is not None:
            refusals[title] = reason
            continue
        implementation = cls(workload)
        try:
            errors[title] = reference.check(f"{title} on {name}", implementation)
        except DiffersError as error:
            if title.startswith(OURS):
                raise
            refusals[title] = str(error).rstrip(".")
            continue
        runs[title] = implementation.run
    print(f"{name}: all compute the same; timing", file=sys.stderr, flush=True)
    return {
        "flops": useful_flops(workload) if workload.images else None,
        "times": interleaved(runs, rounds=rounds, seconds=seconds, clock=clock),
        "errors": errors,
        "refusals": refusals,
    }


if __name__ == "__main__":
    _, threads, out, rounds, seconds, *names = sys.argv
    names, without = (names[: names.index("-")], names[names.index("-") + 1 :])
    try:
        measured = measure(int(threads), int(rounds), float(seconds), names, without)
    except DiffersError as error:
        sys.exit(str(error))
    Path(out).write_text(json.dumps(measured), encoding="utf-8")
