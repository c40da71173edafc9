"""The library higher: a functional copy of the module for every task."""

from __future__ import annotations

import higher
import torch
from torch import Tensor

from tools.speed.implementation import BackwardImplementation
from tools.speed.workloads import Workload


class Higher(BackwardImplementation):
    """`innerloop_ctx` with SGD, task by task."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return "it unrolls inner optimizers, and ProtoNet has none" if workload.method == "protonet" else None

    def backward(self) -> Tensor:
        workload, total = self.workload, torch.zeros(())
        adapted = self.adapted()
        optimizer = torch.optim.SGD(adapted.parameters(), lr=workload.inner_lr)
        for task in self.each_task():
            support_x, query_x = self.inputs(task)
            with higher.innerloop_ctx(
                adapted,
                optimizer,
                copy_initial_weights=False,
                track_higher_grads=not workload.first_order,
            ) as (model, inner):
                for _ in range(workload.inner_steps):
                    inner.step(workload.loss(model(support_x), task.support.y))
                loss = workload.loss(model(query_x), task.query.y) / workload.n_tasks
                if workload.first_order:  # the graph ends at the adapted parameters: carry over by hand
                    gradients = torch.autograd.grad(loss, list(model.parameters()))
                    for parameter, gradient in zip(adapted.parameters(), gradients, strict=True):
                        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                else:
                    loss.backward()
            total = total + loss.detach()
        return total
