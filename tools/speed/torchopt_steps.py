"""TorchOpt: its differentiable optimizer on a module, and its functional interface."""

from __future__ import annotations

import torch
import torchopt
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metalens import Task
from tools.speed.implementation import BackwardImplementation
from tools.speed.workloads import Workload

NO_INNER_LOOP = "it is a library of optimizers, and ProtoNet has no inner one"


class MetaSGD(BackwardImplementation):
    """`MetaSGD` changes the module; `recover_state_dict` brings it back for the next task."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        if workload.method == "protonet":
            return NO_INNER_LOOP
        return "MetaSGD always differentiates twice" if workload.first_order else None

    def backward(self) -> Tensor:
        workload, total = self.workload, torch.zeros(())
        adapted = self.adapted()
        inner = torchopt.MetaSGD(adapted, lr=workload.inner_lr)
        before = torchopt.extract_state_dict(adapted, by="reference", detach_buffers=True)
        inner_before = torchopt.extract_state_dict(inner, by="reference")
        for task in self.each_task():
            support_x, query_x = self.inputs(task)
            for _ in range(workload.inner_steps):
                inner.step(workload.loss(adapted(support_x), task.support.y))
            loss = workload.loss(adapted(query_x), task.query.y) / workload.n_tasks
            loss.backward()
            total = total + loss.detach()
            torchopt.recover_state_dict(adapted, before)
            torchopt.recover_state_dict(inner, inner_before)
        return total


class Functional(BackwardImplementation):
    """`torchopt.sgd` inside `torch.func.vmap`, on the network of MetaLens.

    Under vmap the gradients of `nn.BatchNorm2d` are wrong, so a network safe for it is needed.
    """

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return NO_INNER_LOOP if workload.method == "protonet" else None

    def make_module(self) -> nn.Module:
        return self.workload.network()

    def backward(self) -> Tensor:
        adapted = self.adapted()
        parameters = dict(adapted.named_parameters())
        loss = vmap(lambda *task: self.task_loss(adapted, parameters, Task(*task)))(*self.tasks[:2]).mean()
        loss.backward()
        return loss.detach()

    def task_loss(self, adapted: nn.Module, parameters: dict[str, Tensor], task: Task) -> Tensor:
        """Return the query loss of one task after adaptation."""
        support_x, query_x = self.inputs(task)

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.workload.loss(functional_call(adapted, parameters, (x,)), y)

        optimizer = torchopt.sgd(lr=self.workload.inner_lr)
        state = optimizer.init(parameters)
        for _ in range(self.workload.inner_steps):
            gradients = grad(loss)(parameters, support_x, task.support.y)
            if self.workload.first_order:
                gradients = {name: gradient.detach() for name, gradient in gradients.items()}
            updates, state = optimizer.update(gradients, state, inplace=False)
            parameters = torchopt.apply_updates(parameters, updates, inplace=False)
        return loss(parameters, query_x, task.query.y)
