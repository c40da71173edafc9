"""MetaLens."""

from __future__ import annotations

from torch import Tensor, nn

from metalens import Objective
from metalens.batching import Batching
from metalens.execution.compiling import CompiledObjective
from tools.speed.implementation import BackwardImplementation
from tools.speed.workloads import Workload


class Loop(BackwardImplementation):
    """Task by task."""

    batching: Batching = "loop"

    def make_objective(self) -> Objective:
        objective = Objective(self.workload.learner())
        objective.batching = self.batching
        return objective

    def make_module(self) -> nn.Module:
        return self.make_objective()

    def backward(self) -> Tensor:
        loss = self.module(self.tasks)["query"]
        loss.backward()
        return loss.detach()


class Vmap(Loop):
    """All tasks in one vectorized call."""

    batching = "vmap"


class Compiled(Vmap):
    """Losses and gradient as one compiled program."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return "a loop over tasks is the better way for convolutions here" if workload.images else None

    def make_module(self) -> nn.Module:
        return CompiledObjective(self.make_objective())
