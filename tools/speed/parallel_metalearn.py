"""The library parallel-metalearn: an algorithm object whose `step` is the whole outer step.

It runs on the network of MetaLens: with PyTorch's own normalization its vectorized meta-gradient is wrong.
"""

from __future__ import annotations

from itertools import repeat

import torch
from metalearn.algorithms import MAML, PrototypicalNetwork
from metalearn.inner_optimizers import InnerSGD
from metalearn.loss.base import BaseLoss
from metalearn.model_wrappers import MAML_Model, ProtoNet_Model
from torch import Tensor, nn

from tools.speed.implementation import TorchImplementation
from tools.speed.workloads import Workload


class Vectorized(TorchImplementation):
    """All tasks in one chunk."""

    backend = "vmap"

    def make_module(self) -> nn.Module:
        workload = self.workload
        network = workload.learner().network
        if workload.method == "protonet":
            return ProtoNet_Model(
                TakesKeywords(network), max_classes=workload.n_way, latent_dim=network.n_features
            )
        names = "ANIL" if workload.method == "anil" else None
        backbone, head = TakesKeywords(network.backbone), TakesKeywords(network.head)
        return MAML_Model(backbone, head, fast_weights_names=names)

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        settings = {
            "model": self.module,
            "optimizer": self.optimizer,
            "chunk_size": workload.n_tasks,
            "backend": self.backend,
            "device": torch.device("cpu"),
        }
        y = [{"labels": part.y} for part in self.tasks[:2]]
        self.batches = repeat((self.tasks.support.x, y[0], self.tasks.query.x, y[1]))
        if workload.method == "protonet":
            self.algorithm = PrototypicalNetwork(loss_fn=TaskLoss(workload), **settings)
            return
        inner = InnerSGD(
            self.module.get_fast_weights(),
            inner_lr=workload.inner_lr,
            first_order=workload.first_order,
            max_inner_steps=workload.inner_steps,
            learn_lr=False,
        )
        self.algorithm = MAML(
            inner_optimizer=inner,
            support_loss_fn=TaskLoss(workload),
            inner_steps=workload.inner_steps,
            **settings,
        )

    def step(self) -> float:
        return self.algorithm.step(self.batches)[0]


class Sequential(Vectorized):
    """Task by task."""

    backend = "sequential"

    def step(self) -> float:
        return super().step() * self.workload.n_tasks  # what it reports is divided by their number twice


class TakesKeywords(nn.Module):
    """A module that is called with the library's flags, which it does not need."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, **flags: object) -> Tensor:
        return self.module(x)


class TaskLoss(BaseLoss):
    """The loss alone; the library's own also computes an accuracy."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload

    def forward(self, out_dict: dict, targets: dict, model_states: dict | None = None, **flags: object):
        loss = self.workload.loss(out_dict["logits"], targets["labels"])
        return loss, loss.detach()
