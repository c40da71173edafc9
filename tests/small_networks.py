"""Tiny networks that the contract suite goes through, and random tasks for them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrizations

from metalens import Examples, Fields, Network, Task, TaskDistribution, TransductiveBatchNorm, mlp, wrap

N_TASKS, N_WAY, K_SHOT, N_QUERY = 4, 3, 2, 6
IMAGE = (1, 6, 6)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
        self.fc = nn.Linear(6, N_WAY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.encoder(x.flatten(1, 2)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5, batch_first=True)
        self.fc = nn.Linear(5, N_WAY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x.flatten(1, 2))[0][:, -1])


def _conv(norm: nn.Module) -> nn.Sequential:
    # Smooth: kinks of ReLU and max-pooling would spoil finite differences.
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.Softplus(), nn.AvgPool2d(3), nn.Flatten())


def _stock(norm: nn.Module) -> Network:
    return wrap(nn.Sequential(*_conv(norm), nn.Linear(16, N_WAY)), head="5", example=torch.randn(4, *IMAGE))


def _parametrized(layer: nn.Module) -> Network:
    module = nn.Sequential(layer, nn.Softplus(), nn.Linear(6, N_WAY))
    return wrap(module, head="2", example=torch.randn(4, 5))


# The networks of the full table.
NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: mlp(5, N_WAY, [8, 7], activation=nn.Softplus),
    "conv-norm": lambda: Network(
        _conv(TransductiveBatchNorm(4)), nn.Linear(16, N_WAY), n_features=16, n_outputs=N_WAY
    ),
    "attention": lambda: wrap(Attention(), head="fc", example=torch.randn(4, *IMAGE)),
}


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding(x).flatten(1).tanh()


class Fused(nn.Module):
    """Two inputs that meet before a smooth layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 6), nn.Linear(3, 6)
        self.out = nn.Linear(6, N_WAY)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.out((self.left(left) * self.right(right)).tanh())


def _fused() -> Network:
    fields = Fields({"left": (2,), "right": (3,)})
    return wrap(Fused(), head="out", example=torch.randn(4, 5), fields=fields)


def _shared() -> Network:
    network = mlp(5, N_WAY, [8, 7], activation=nn.Softplus)
    return Network(network.backbone, network.head, n_features=7, n_outputs=N_WAY, n_shared=1)


# Further normalization layers, shared stages and integer inputs, without regularizers.
FURTHER_NETWORKS: dict[str, Callable[[], Network]] = {
    "shared": _shared,
    "mlp-fields": _fused,
    "embedding": lambda: Network(Embedding(), nn.Linear(20, N_WAY), n_features=20, n_outputs=N_WAY),
    "mlp-weight-norm": lambda: _parametrized(parametrizations.weight_norm(nn.Linear(5, 6))),
    "mlp-spectral-norm": lambda: _parametrized(parametrizations.spectral_norm(nn.Linear(5, 6))),
    "mlp-norm": lambda: mlp(5, N_WAY, [8, 7], activation=nn.Softplus, norm=True),
    "stock-batch-norm": lambda: _stock(nn.BatchNorm2d(4)),
    "stock-layer-norm": lambda: _stock(nn.LayerNorm([4, 6, 6])),
    "stock-instance-norm": lambda: _stock(nn.InstanceNorm2d(4, affine=True)),
    "stock-group-norm": lambda: _stock(nn.GroupNorm(2, 4)),
}
# Networks without a vectorized form: tasks are looped over.
LOOPED_NETWORKS: dict[str, Callable[[], Network]] = {
    "lstm": lambda: wrap(Recurrent(), head="fc", example=torch.randn(4, *IMAGE)),
}


def randomize(module: nn.Module) -> nn.Module:
    """Move every parameter off its default, so that scales of 1 and shifts of 0 hide nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double()


def build_network(name: str, seed: int = 0) -> Network:
    network = copy.deepcopy(_built(name, seed))
    torch.manual_seed(seed)  # what is drawn next is the same, whether the network was built before or not
    return network


@functools.cache  # wrapping measures the gradients of a network, which takes longer than most tests
def _built(name: str, seed: int) -> Network:
    torch.manual_seed(seed)
    return randomize((NETWORKS | FURTHER_NETWORKS | LOOPED_NETWORKS)[name]())  # pyright: ignore[reportReturnType]


def classification_tasks(network: str, seed: int = 1) -> Task:
    """A batch of random tasks in double precision."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5,) if network.startswith(("mlp", "shared", "embedding")) else IMAGE

    def examples(per_class: int) -> Examples:
        y = torch.arange(N_WAY).repeat_interleave(per_class).expand(N_TASKS, -1)
        x = torch.randn(N_TASKS, N_WAY * per_class, *shape, generator=generator, dtype=torch.float64)
        x = x.mul(2).round().long().clamp(0, 5) if network == "embedding" else x
        return Examples(x, y.contiguous())

    return Task(examples(K_SHOT), examples(N_QUERY // N_WAY)).as_batch()


def regression_tasks(network: str, seed: int = 1) -> Task:
    generator = torch.Generator().manual_seed(seed + 100)
    support, query, _ = classification_tasks(network, seed)

    def real(examples: Examples) -> Examples:
        n = examples.y.shape[1]
        return Examples(examples.x, torch.randn(N_TASKS, n, N_WAY, generator=generator, dtype=torch.float64))

    return Task(real(support), real(query)).as_batch()


class Stream(TaskDistribution):
    """An endless stream of the random tasks of a kind, for learners that prepare."""

    def __init__(self, network: str, kind: str) -> None:
        super().__init__()
        self.network, self.draw = network, regression_tasks if kind == "regression" else classification_tasks

    def __getitem__(self, index: int) -> Task:
        support, query, _ = self.draw(self.network, 1 + index // N_TASKS)
        return Task(*(Examples(x[index % N_TASKS], y[index % N_TASKS]) for x, y in (support, query)))
