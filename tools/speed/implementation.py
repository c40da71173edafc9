"""What every library is asked for, and the list of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metalens import Task
from metalens.tasks import place
from tools.speed.workloads import OUTER_LR, Workload

OURS = "MetaLens"  # begins the names of our own
# By the name in the table: module and class. A library that is not installed is left out.
IMPLEMENTATIONS = {
    "MetaLens, loop": ("ours", "Loop"),
    "MetaLens, vmap": ("ours", "Vmap"),
    "MetaLens, vmap compiled": ("ours", "Compiled"),
    "Plain PyTorch, clone and adapt": ("clone_loop", "CloneLoop"),
    "higher": ("higher_loop", "Higher"),
    "TorchOpt, MetaSGD": ("torchopt_steps", "MetaSGD"),
    "TorchOpt, functional under vmap": ("torchopt_steps", "Functional"),
    "parallel-metalearn, vmap": ("parallel_metalearn", "Vectorized"),
    "parallel-metalearn, sequential": ("parallel_metalearn", "Sequential"),
    "JAX, vmap": ("jax_steps", "Vmap"),
    "JAX, scan over tasks": ("jax_steps", "Scan"),
    "JAX, unrolled tasks": ("jax_steps", "Unrolled"),
}

# With images these take up to 10 s for a step.
SLOW = [
    "MetaLens, vmap",
    "TorchOpt, functional under vmap",
    "parallel-metalearn, vmap",
    "JAX, vmap",
    "JAX, scan over tasks",
]


class Implementation(ABC):
    """The outer step of one workload by one library; the state is that of the training so far.

    Args:
        workload: which has not been refused.
    """

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        """Return why it has no row in the table of this workload, or `None`."""
        return None

    @abstractmethod
    def __init__(self, workload: Workload) -> None: ...

    @abstractmethod
    def first_step(self) -> tuple[float, list[Tensor]]:
        """Make the first outer step; return its loss and the meta-gradient, in the order of the network."""

    @abstractmethod
    def run(self, n: int) -> float:
        """Make n outer steps, to the end of the last one, and return its loss."""

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """Return the meta-parameters now, in the order of the network of MetaLens."""


class TorchImplementation(Implementation):
    """With Adam of PyTorch outside."""

    def __init__(self, workload: Workload, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.workload = workload
        self.tasks = Task(*place(workload.tasks()[:2], torch.device(device), dtype))
        self.module = self.make_module().to(device, dtype)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=OUTER_LR, fused=True)

    def make_module(self) -> nn.Module:
        """Return the module whose parameters are the meta-parameters."""
        return self.workload.plain_network()

    @abstractmethod
    def step(self) -> float:
        """Make one outer step, and return its loss."""

    def first_step(self) -> tuple[float, list[Tensor]]:
        loss = self.step()
        return loss, [p.grad.clone() for p in self.module.parameters()]

    def run(self, n: int) -> float:
        for _ in range(n):
            loss = self.step()
        return loss

    def parameters(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.module.parameters()]


class BackwardImplementation(TorchImplementation):
    """A library that leaves the outer step to its user, and says how the meta-gradient comes about."""

    @abstractmethod
    def backward(self) -> Tensor:
        """Add the meta-gradient to that of the parameters; return the outer loss, detached."""

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.backward()
        self.optimizer.step()
        return loss.item()

    def adapted(self) -> nn.Module:
        """Return the part of the module that adapts: the head for ANIL, else all."""
        return self.module.head if self.workload.method == "anil" else self.module

    def inputs(self, task: Task) -> tuple[Tensor, Tensor]:
        """Return what that part sees of the support and query inputs of a task."""
        x = task.support.x, task.query.x
        return (self.module.embed(x[0]), self.module.embed(x[1])) if self.workload.method == "anil" else x

    def each_task(self) -> Iterator[Task]:
        """Yield the tasks one by one."""
        for i in range(self.workload.n_tasks):
            yield Task(*(type(part)(*(t[i] for t in part)) for part in self.tasks[:2]))


def load(name: str) -> type[Implementation] | None:
    """Return the class of this name, or `None` where its library is not installed."""
    module, cls = IMPLEMENTATIONS[name]
    try:
        return getattr(importlib.import_module(f"tools.speed.{module}"), cls)
    except ModuleNotFoundError:
        return None
