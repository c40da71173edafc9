"""Print the error of the meta-gradient in every precision of Lightning Fabric, as a table.

    python tools/precision.py

The gradient of the outer loss of a fresh objective is compared with that in double precision, for the same
weights and tasks: `||g - g64|| / ||g64||` over all meta-parameters, the median over some draws of both.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.func import functional_call

from metalens import (
    ANIL,
    MAML,
    R2D2,
    Learner,
    MetaLensError,
    Objective,
    ProtoNet,
    Sinusoid,
    TRLearner,
    conv4,
    mlp,
)
from metalens.batching import Batching
from metalens.execution.compiling import CompiledObjective
from metalens.io.provenance import commit
from metalens.objective import outer_loss
from metalens.tasks import Examples, Task, place

DRAWS = 5
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")
FILTERS, N_WAY = 16, 5


def sinusoids(seed: int) -> Task:
    """Return 25 sinusoids, 10-shot."""
    return Sinusoid("train", k_shot=10, seed=seed).batch(range(25))


def images(seed: int) -> Task:
    """Return 8 tasks of 5-way 1-shot on random images, of which those of a class are alike."""
    noise = torch.Generator().manual_seed(seed)
    classes = torch.randn(8, N_WAY, 1, 1, 28, 28, generator=noise)

    def examples(n: int) -> Examples:
        x = classes + 0.5 * torch.randn(8, N_WAY, n, 1, 28, 28, generator=noise)
        return Examples(x.flatten(1, 2), torch.arange(N_WAY).repeat_interleave(n).expand(8, -1).contiguous())

    return Task(examples(1), examples(5))


def curves(learner: Callable[..., Learner], related: bool = False, **settings) -> Objective:
    network = learner(mlp(), **settings)
    return Objective(network, [TRLearner()] if related else [])


def pictures(learner: Callable[..., Learner], batching: Batching = "loop", **settings) -> Objective:
    objective = Objective(learner(conv4(N_WAY, n_filters=FILTERS), **settings))
    objective.batching = batching
    return objective


class PlainMAML(nn.Module):
    """One-step MAML by `torch.autograd.grad`: what PyTorch makes of a precision without `torch.func.grad`."""

    def __init__(self, inner_lr: float) -> None:
        super().__init__()
        self.network, self.inner_lr = conv4(N_WAY, n_filters=FILTERS), inner_lr

    def forward(self, tasks: Task) -> dict[str, Tensor]:
        tensors = zip(*tasks.support, *tasks.query, strict=True)
        return {"query": torch.stack([self._task(*of_task) for of_task in tensors]).mean()}

    def _task(self, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        start = dict(self.network.named_parameters())
        loss = F.cross_entropy(functional_call(self.network, start, (x,)), y)
        slopes = torch.autograd.grad(loss, list(start.values()), create_graph=True)
        end = {
            name: weight - self.inner_lr * slope
            for (name, weight), slope in zip(start.items(), slopes, strict=True)
        }
        return F.cross_entropy(functional_call(self.network, end, (query_x,)), query_y)


def compiled() -> CompiledObjective:
    return CompiledObjective(curves(MAML), backend=None)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Task]]] = {
    "MAML, perceptron": (lambda: curves(MAML), sinusoids),
    "MAML, perceptron, compiled": (compiled, sinusoids),
    "MAML, perceptron, 5 steps": (lambda: curves(MAML, inner_steps=5), sinusoids),
    "MAML + TRLearner, perceptron": (lambda: curves(MAML, related=True), sinusoids),
    "first-order MAML, perceptron": (lambda: curves(MAML, first_order=True), sinusoids),
    "ANIL, perceptron": (lambda: curves(ANIL), sinusoids),
    "MAML, Conv4": (lambda: pictures(MAML, inner_lr=0.4), images),
    "MAML, Conv4, by `torch.autograd.grad`": (lambda: PlainMAML(0.4), images),
    "MAML, Conv4, `vmap`": (lambda: pictures(MAML, "vmap", inner_lr=0.4), images),
    "MAML, Conv4, `inner_lr=0.01`": (lambda: pictures(MAML, inner_lr=0.01), images),
    "ANIL, Conv4, 5 steps": (lambda: pictures(ANIL, inner_lr=0.1, inner_steps=5), images),
    "ProtoNet, Conv4": (lambda: pictures(ProtoNet), images),
    "R2D2, Conv4": (lambda: pictures(R2D2), images),
}


def gradient(
    make: Callable[[], nn.Module], tasks: Task, precision: str, seed: int, device: str = "cpu"
) -> Tensor:
    """Return the meta-gradient as `fit` computes it, in double precision."""
    scale = 2.0**16 if precision == "16-mixed" else 1.0
    while True:
        # Fabric has no 16-mixed for a CPU of itself.
        plugin = MixedPrecision("16-mixed", device, torch.amp.GradScaler(device, init_scale=scale))
        how = {"plugins": [plugin]} if precision == "16-mixed" else {"precision": precision}
        fabric = Fabric(accelerator=device, devices=1, **how)
        torch.manual_seed(seed)
        module = fabric.setup_module(make())
        dtype = torch.float64 if precision == "64-true" else torch.float32
        fabric.backward(outer_loss(module(place(tasks, torch.device(device), dtype))))
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
        slope = torch.cat([part.flatten().double().cpu() for part in slopes]) / scale
        if slope.isfinite().all() or scale <= 1:
            return slope
        scale /= 2  # as the scaler does after a step that it leaves out


def error(make: Callable[[], nn.Module], draw: Callable[[int], Task], precision: str) -> str:
    """Return the median of the relative error, or that the precision is not possible."""
    errors = []
    for seed in range(DRAWS):
        exact = gradient(make, draw(seed), "64-true", seed)
        try:
            rough = gradient(make, draw(seed), precision, seed)
        except (MetaLensError, RuntimeError):
            return "not possible"
        errors.append(((rough - exact).norm() / exact.norm()).item())
    return f"{statistics.median(errors):.0e}"


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, commit {commit()}, {DRAWS} draws.\n")
    print("| meta-gradient of | " + " | ".join(f"`{name}`" for name in PRECISIONS) + " |")
    print("|---" * (len(PRECISIONS) + 1) + "|")
    for name, (make, draw) in CASES.items():
        cells = [error(make, draw, precision) for precision in PRECISIONS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
