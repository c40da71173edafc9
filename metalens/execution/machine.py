"""How a training runs on a machine."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

import torch

from metalens.batching import Batching, Chunk, check_batching, check_chunk
from metalens.errors import MetaLensError
from metalens.learners.base import Differentiation, Mode, check_differentiation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Compile = Literal["auto"] | bool
Together = Literal["auto"] | bool
Workers = int | Literal["ray"]
Strategy = Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
Precision = Literal["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a training runs: where, in how many processes, and how its steps are computed.

    Results do not depend on it, up to rounding.

    Args:
        accelerator: the device, as in Lightning Fabric: auto, cpu, cuda, mps.
        devices: processes that share the tasks of every step, each on its own device.
        strategy: of several processes, as in Lightning Fabric; auto is ddp.
        precision: of numbers in training, as in Lightning Fabric.
        threads: processor threads of each process; null leaves the number to PyTorch.
        batching: how tasks are mapped: auto, vmap or loop.
        chunk: tasks that are computed at a time, to save memory; null for all, auto for as many as fit.
        differentiation: how the outer gradient goes through the inner loop: reverse keeps the graph of every
            inner step; mixed keeps the weights alone and computes each step again, in forward over reverse
            mode; auto is mixed where reverse does not fit into memory.
        compile: compile the training step into one program: true, false, or auto, which compiles only if
            profiling finds it faster.
        profile: time vmap, loop and compiling in a short trial before a long training, take the fastest, and
            keep the choice in the cache folder.
        keep_freed_memory: keep freed memory for later tensors until the process ends (Linux, glibc).
        workers: of an experiment: processes that train at the same time, or ray for a Ray cluster.
        together: of an experiment: train seeds side by side: auto (if possible), true or false.

    Raises:
        MetaLensError: a value is out of range, or both workers and devices are above 1.

    >>> Machine(threads=0)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: threads must be at least 1, or null, got 0.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: Strategy = "auto"
    precision: Precision = "32-true"
    threads: int | None = None
    batching: Batching = "auto"
    chunk: Chunk = "auto"
    differentiation: Differentiation = "auto"
    compile: Compile = "auto"
    profile: bool = False
    keep_freed_memory: bool = False
    workers: Workers = 1
    together: Together = "auto"

    def __post_init__(self) -> None:
        check_batching(self.batching)
        check_chunk(self.chunk)
        check_differentiation(self.differentiation)
        if self.devices < 1:
            raise MetaLensError(f"devices must be at least 1, got {self.devices}.")
        if self.workers != "ray" and self.workers < 1:
            raise MetaLensError(f"workers must be at least 1, or ray, got {self.workers}.")
        if self.workers != 1 and self.devices > 1:
            raise MetaLensError(
                f"Only one of workers and devices can be above 1, got workers={self.workers} and "
                f"devices={self.devices}: each worker trains by itself."
            )
        if self.strategy not in get_args(Strategy):
            raise MetaLensError(
                f"strategy must be one of {', '.join(get_args(Strategy))}, got {self.strategy!r}: the inner "
                "loop needs all parameters in each process."
            )
        if self.threads is not None and self.threads < 1:
            raise MetaLensError(f"threads must be at least 1, or null, got {self.threads}.")

    @property
    def n_processes(self) -> int:
        """Number of processes that train together, on all machines."""
        return self.devices * _n_machines()

    @property
    def mode(self) -> Mode:
        """How inner loops are differentiated, if nothing else is chosen: `"reverse"` or `"mixed"`."""
        return "mixed" if self.differentiation == "mixed" else "reverse"

    @contextmanager
    def set_threads(self) -> Iterator[None]:
        """Set PyTorch's number of threads within the block."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def fabric(self) -> Fabric:
        """Return a new, launched Fabric.

        Raises:
            MetaLensError: this machine lacks the device, or cannot compute in the precision.
        """
        from lightning_fabric import Fabric  # its import takes seconds, so only training waits for it

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each process
        asked = {name: getattr(self, name) for name in ("accelerator", "devices", "strategy", "precision")}
        try:
            fabric = Fabric(num_nodes=_n_machines(), **asked)
            if (possible := fabric.strategy.precision.precision) != self.precision:
                raise ValueError(f"the nearest precision is {possible}.")
            fabric.launch()
        except (ValueError, RuntimeError) as error:
            changed = [
                f"{name}={value!r}" for name, value in asked.items() if value != getattr(Machine, name)
            ]
            reason = " ".join(str(error).split())
            raise MetaLensError(
                f"{', '.join(changed) or 'Training'} is not possible here: {reason}"
            ) from None
        if fabric.world_size > 1:
            _destroy_process_group_at_exit()
        return fabric


def _n_machines() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))  # set by torchrun


@cache  # once per process
def _destroy_process_group_at_exit() -> None:
    """End the group's threads before the interpreter ends, which would abort otherwise."""
    atexit.register(torch.distributed.destroy_process_group)
