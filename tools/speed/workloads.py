"""What is timed: a method on a network and a fixed batch of tasks, the same tensors for everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens import ANIL, MAML, Examples, Learner, Network, ProtoNet, Sinusoid, Task, conv4, mlp

OUTER_LR = 1e-3
SEED = 0


@dataclass(frozen=True)
class Workload:
    """One outer step: adapt to every task, differentiate the mean query loss, one step of Adam.

    Attributes:
        title: of its table.
        method: MAML, ANIL (the head adapts) or ProtoNet (nothing adapts; class means).
        images: 5-way 1-shot Conv4 with 15 queries per class, on random images of which those of one class
            are alike; else 10-shot sinusoids with 10 queries and a perceptron.
        n_tasks: tasks of the batch.
        width: filters of Conv4, or units of each of two hidden layers.
        image_size: height and width of the images, in pixels.
        inner_lr: step size of the inner loop.
        inner_steps: its number of steps.
        first_order: inner gradients are constants in the outer gradient.
    """

    title: str
    method: Literal["maml", "anil", "protonet"]
    images: bool = False
    n_tasks: int = 25
    width: int = 40
    image_size: int = 28
    inner_lr: float = 0.01
    inner_steps: int = 1
    first_order: bool = False

    @property
    def n_way(self) -> int:
        """Outputs of the network."""
        return 5 if self.images else 1

    def network(self) -> Network:
        """Return the network of MetaLens, always with the same weights."""
        torch.manual_seed(SEED)
        if self.images:
            return conv4(self.n_way, n_filters=self.width, image_size=self.image_size)
        return mlp(hidden=(self.width, self.width))

    def learner(self) -> Learner:
        """Return the learner of MetaLens."""
        if self.method == "protonet":
            return ProtoNet(self.network())
        make = {"maml": MAML, "anil": ANIL}[self.method]
        return make(
            self.network(),
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
        )

    def plain_network(self) -> PlainNetwork:
        """Return the same network with the same weights from PyTorch's own layers."""
        source = self.learner().network
        blocks: list[nn.Module] = []
        if self.images:
            for n_in in (1, self.width, self.width, self.width):
                norm = nn.BatchNorm2d(self.width, track_running_stats=False)
                blocks += [nn.Conv2d(n_in, self.width, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
            blocks += [nn.Flatten()]
        else:
            for n_in in (1, self.width):
                blocks += [nn.Linear(n_in, self.width), nn.ReLU()]
        head = nn.Identity() if self.method == "protonet" else nn.Linear(source.n_features, self.n_way)
        network = PlainNetwork(nn.Sequential(*blocks), head)
        with torch.no_grad():
            for own, given in zip(network.parameters(), source.parameters(), strict=True):
                own.copy_(given)
        return network

    def tasks(self) -> Task:
        """Return the batch of tasks."""
        if not self.images:
            return Task(*Sinusoid(k_shot=10, n_query=10, seed=SEED).batch(range(self.n_tasks))[:2])
        generator = torch.Generator().manual_seed(SEED)
        shape = (1, self.image_size, self.image_size)
        classes = torch.rand(self.n_tasks, self.n_way, *shape, generator=generator)
        sets = []
        for n_images in (1, 15):
            y = torch.arange(self.n_way).repeat_interleave(n_images)
            x = classes[:, y] + torch.rand(self.n_tasks, len(y), *shape, generator=generator)
            sets.append(Examples(x, y.repeat(self.n_tasks, 1)))
        return Task(*sets)

    def loss(self, predictions: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one task."""
        return (F.cross_entropy if self.images else F.mse_loss)(predictions, y)


class PlainNetwork(nn.Module):
    """A network as users of other libraries write it."""

    def __init__(self, embed: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embed, self.head = embed, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


WORKLOADS = {
    "sinusoid-maml-1": Workload("Sinusoids, MAML, 1 inner step", "maml"),
    "sinusoid-maml-5": Workload("Sinusoids, MAML, 5 inner steps", "maml", inner_steps=5),
    "sinusoid-fomaml-5": Workload(
        "Sinusoids, first-order MAML, 5 inner steps", "maml", inner_steps=5, first_order=True
    ),
    "conv4-maml-1": Workload(
        "Conv4, MAML, 1 inner step", "maml", images=True, n_tasks=16, width=64, inner_lr=0.4
    ),
    "conv4-anil-1": Workload(
        "Conv4, ANIL, 1 inner step", "anil", images=True, n_tasks=16, width=64, inner_lr=0.4
    ),
    "conv4-protonet": Workload("Conv4, ProtoNet", "protonet", images=True, n_tasks=16, width=64),
}
