"""Plain PyTorch: clone the module, adapt the clone, differentiate back to the original; task by task.

This is how learn2learn works. Its last release, 0.2.0, cannot be built for Python 3.11.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalens import Examples, Task
from tools.speed.implementation import BackwardImplementation


class CloneLoop(BackwardImplementation):
    """A loop that needs no library; in double precision it is the reference of the equality check."""

    def backward(self) -> Tensor:
        method = {"maml": self.maml, "anil": self.anil, "protonet": self.protonet}[self.workload.method]
        total = torch.zeros(())
        for task in self.each_task():
            loss = method(task) / self.workload.n_tasks
            loss.backward()
            total = total + loss.detach()
        return total

    def maml(self, task: Task) -> Tensor:
        """Return the query loss of a clone of the whole network, adapted."""
        model = self.adapt(clone(self.module), task.support)
        return self.workload.loss(model(task.query.x), task.query.y)

    def anil(self, task: Task) -> Tensor:
        """Return the query loss of a clone of the head, adapted."""
        support_x, query_x = self.inputs(task)
        head = self.adapt(clone(self.module.head), Examples(support_x, task.support.y))
        return self.workload.loss(head(query_x), task.query.y)

    def protonet(self, task: Task) -> Tensor:
        """Return the loss of negative squared distances to the class means."""
        z = self.module(task.support.x)
        prototypes = torch.stack([z[task.support.y == k].mean(0) for k in range(self.workload.n_way)])
        distances = (self.module(task.query.x).unsqueeze(1) - prototypes).square().sum(2)
        return self.workload.loss(-distances, task.query.y)

    def adapt(self, model: nn.Module, support: Examples) -> nn.Module:
        """Move the parameters of a clone down the support loss."""
        places = [(m, name) for m in model.modules() for name, p in m._parameters.items() if p is not None]
        for _ in range(self.workload.inner_steps):
            values = [module._parameters[name] for module, name in places]
            loss = self.workload.loss(model(support.x), support.y)
            gradients = torch.autograd.grad(loss, values, create_graph=not self.workload.first_order)
            for (module, name), value, gradient in zip(places, values, gradients, strict=True):
                module._parameters[name] = value - self.workload.inner_lr * gradient
        return model


def clone(module: nn.Module) -> nn.Module:
    """Return a module whose parameters are differentiable copies of those of the given one."""
    copy = module.__new__(type(module))
    copy.__dict__ = module.__dict__.copy()
    copy._parameters = {name: None if p is None else p.clone() for name, p in module._parameters.items()}
    copy._modules = {name: clone(child) for name, child in module._modules.items()}
    return copy
