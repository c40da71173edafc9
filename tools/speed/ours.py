"""MetaLens."""

from __future__ import annotations

from torch import Tensor, nn

from metalens import Objective
from metalens.batching import Batching
from metalens.execution.update import Update
from metalens.execution.whole_step import WholeStep
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
    """The whole step with Adam as one compiled program."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return "a loop over tasks is the better way for convolutions here" if workload.images else None

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        weights = list(self.module.parameters())
        self.program = WholeStep(self.module, Update(self.optimizer, weights))

    def first_step(self) -> tuple[float, list[Tensor]]:
        self.backward()
        gradient = [weight.grad.clone() for weight in self.module.parameters()]
        return self.step(), gradient

    def step(self) -> float:
        return self.program(self.tasks)["query"].item()
