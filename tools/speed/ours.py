"""MetaLens."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from metalens import Objective
from metalens.execution.compiling import CompiledObjective
from tools.speed.implementation import BackwardImplementation
from tools.speed.workloads import Workload


class Loop(BackwardImplementation):
    """Task by task."""

    settings: ClassVar = {"batching": "loop"}

    def make_module(self) -> nn.Module:
        return Objective(self.workload.learner(), **self.settings)

    def backward(self) -> Tensor:
        loss = self.module(self.tasks)["query"]
        loss.backward()
        return loss.detach()


class Vmap(Loop):
    """All tasks in one vectorized call."""

    settings: ClassVar = {"batching": "vmap"}


class Compiled(Loop):
    """Losses and gradient as one compiled program."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return "a loop over tasks is the better way for convolutions here" if workload.images else None

    def make_module(self) -> nn.Module:
        return CompiledObjective(Objective(self.workload.learner(), batching="vmap"))
