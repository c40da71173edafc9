"""The peak memory of outer steps, above what the process held before, in a process of its own.

    python -m tools.speed.memory conv4-maml-1 "MetaLens, loop"

Prints MiB. On Linux only: the peak is reset after the first step, so that neither imports nor compilation
count. (`ru_maxrss` cannot be reset.)
"""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

from tools.speed.implementation import load
from tools.speed.machine import limit_threads
from tools.speed.workloads import WORKLOADS

PROCESS = Path("/proc/self")
# Large blocks go back to the system when they are freed, so that what a process holds is what it needs.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


def peak_memory(workload: str, name: str) -> float:
    """Return the MiB that two outer steps need on top."""
    cls = load(name)
    assert cls is not None
    implementation = cls(WORKLOADS[workload])
    implementation.run(1)
    gc.collect()
    (PROCESS / "clear_refs").write_text("5")
    before = held("VmRSS")
    implementation.run(2)
    return held("VmHWM") - before


def held(entry: str) -> float:
    """Return an entry of the process's status in MiB."""
    match = re.search(rf"{entry}:\s*(\d+) kB", (PROCESS / "status").read_text())
    assert match is not None
    return int(match.group(1)) / 1024


if __name__ == "__main__":
    limit_threads(1)
    print(peak_memory(*sys.argv[1:]))
