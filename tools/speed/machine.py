"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from metalens.io.provenance import commit
from tools.speed.clone_loop import CloneLoop
from tools.speed.timing import elapsed
from tools.speed.workloads import Workload

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "higher", "torchopt", "parallel-metalearn", "jax", "jaxlib", "optax", "numpy")


def limit_threads(n: int) -> None:
    """Limit this process to n processor cores, for all libraries."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])
    torch.set_num_threads(n)


def thread_environment(n: int) -> dict[str, str]:
    """Return the environment in which OpenMP and XLA start n threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(n), "PJRT_NPROC": str(n), "JAX_PLATFORMS": "cpu"}


def matmul_rate(size: int = 2048, repeats: int = 20) -> float:
    """Return the best rate of `torch.mm` of square matrices in single precision, in GF/s."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = min(elapsed(lambda n: torch.mm(a, b), 1) for _ in range(repeats))
    return 2 * size**3 / best / 1e9


def useful_flops(workload: Workload) -> float:
    """Return the operations of one outer step in GF, as counted in the loop of plain PyTorch."""
    loop = CloneLoop(workload)
    with FlopCounterMode(display=False) as counter:
        loop.backward()
    return counter.get_total_flops() / 1e9


def metadata(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the processor, its cores, the versions and the commit."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    versions = {"Python": platform.python_version(), **{name: _version(name) for name in packages}}
    return {
        "processor": model.group(1) if model else platform.processor(),
        "cores": str(os.cpu_count()),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items() if number),
        "commit": commit() or "",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
