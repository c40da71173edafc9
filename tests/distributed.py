"""Trainings that several processes share; as a program, one of those processes.

    python tests/distributed.py RESULTS

The environment tells which process it is, in the words of `torchrun`. The first one writes RESULTS.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens import (
    ANIL,
    MAML,
    CrossTaskConfidencePenalty,
    Learner,
    Machine,
    MetaLensError,
    MetaSGD,
    Objective,
    ProtoNet,
    Regularizer,
    Sinusoid,
    TRLearner,
    Validation,
    fit,
    mlp,
)
from metalens.processes import Processes
from metalens.relations import Cosine, Known, Relation, Shuffled, Uniform
from metalens.tasks import Examples
from metalens.training.settings import OuterOptimizer

STEPS, META_BATCH = 4, 6


class Doubles(Sinusoid):
    """Sinusoids in double precision."""

    def batch(self, indices):
        return pytree.tree_map(Tensor.double, super().batch(indices))


class Signs(Doubles):
    """Two classes: is the curve above zero?"""

    def batch(self, indices):
        return super().batch(indices).map(lambda e: Examples(e.x, (e.y > 0).long().squeeze(-1)))


@dataclass(frozen=True)
class Case:
    """One training."""

    learner: Callable[..., Learner]
    regularizers: Callable[[Learner], list[Regularizer]] = lambda learner: []
    classes: bool = False
    chunk: int | None = None
    clip_norm: float | None = None
    outer_optimizer: OuterOptimizer = "sgd"

    @property
    def tasks(self) -> Doubles:
        return (Signs if self.classes else Doubles)("train", k_shot=6, n_query=7)

    def objective(self) -> Objective:
        torch.manual_seed(0)
        learner = self.learner(mlp(1, 2 if self.classes else 1, hidden=[8, 8]))
        return Objective(learner, self.regularizers(learner)).double()

    def train(self, machine: Machine) -> list[float]:
        """Return the learning curve and the weights."""
        objective = self.objective()
        curve = fit(
            objective, self.tasks, steps=STEPS, meta_batch_size=META_BATCH, outer_lr=0.05,
            outer_optimizer=self.outer_optimizer, clip_norm=self.clip_norm,
            machine=replace(machine, chunk=self.chunk),
            validation=Validation(self.tasks, n_tasks=120, every=2),
        )  # fmt: skip
        weights = nn.utils.parameters_to_vector(objective.parameters())
        return [*curve["value"], *weights.tolist()]


def tr(relation: Relation | None = None, **settings) -> Callable[[Learner], list[Regularizer]]:
    return lambda learner: [TRLearner(relation, weight=0.5, **settings)]


CASES = {
    "literal": Case(MAML, tr()),
    "neighbors": Case(MAML, tr(neighbors=2)),
    "center": Case(MAML, tr(Cosine(center=True))),
    "labeled": Case(MAML, tr(Cosine(vector="labeled"))),
    "adaptation": Case(MAML, tr(Cosine(vector="adaptation", temperature=0.5))),
    "shuffled": Case(MAML, tr(Shuffled(), n_query_hat=3)),
    "known": Case(MAML, tr(Known())),
    "known scale": Case(MAML, tr(Shuffled(Known(scale=2.0)))),
    "uniform": Case(MAML, tr(Uniform())),
    "prototypes": Case(MAML, tr(slot_temperature=0.1, neighbors=3), classes=True),
    "chunked relations": Case(MAML, tr(), chunk=2),
    "others": Case(MAML, lambda learner: [CrossTaskConfidencePenalty(weight=0.5)], classes=True),
    "ANIL": Case(ANIL, tr(), classes=True),
    "ProtoNet": Case(ProtoNet, tr(slot_temperature=0.1), classes=True),
    "chunk": Case(MAML, chunk=2),
    "step sizes": Case(MetaSGD, clip_norm=0.5, outer_optimizer="adam"),
}


def diverge(machine: Machine) -> str:
    """Return what a process says whose loss is finite, where that of another is not."""
    tasks = Doubles("train")
    broken = tasks.batch(range(META_BATCH))
    broken.query.y[-1] = torch.inf
    tasks.batch = lambda numbers: pytree.tree_map(lambda tensor: tensor[list(numbers)], broken)
    try:
        fit(CASES["literal"].objective(), tasks, steps=1, meta_batch_size=META_BATCH, machine=machine)
    except MetaLensError as error:
        return str(error)
    return ""


def resumed(machine: Machine, fabric: Fabric) -> list[bool]:
    """Return whether a training that was ended goes on to the same weights in this process."""

    def kill(step: int, loss: float) -> None:
        if step == 13:
            raise KeyboardInterrupt

    case, weights = CASES["shuffled"], []
    with tempfile.TemporaryDirectory() as folder:
        places = fabric.broadcast([f"{folder}/whole", f"{folder}/broken"])
        for out, resume, progress in ((0, False, None), (1, False, kill), (1, True, None)):
            objective = case.objective()
            with suppress(KeyboardInterrupt):
                fit(
                    objective, case.tasks, steps=20, meta_batch_size=META_BATCH, outer_lr=0.05,
                    machine=machine, out=places[out], checkpoint_every=0, resume=resume, on_step=progress,
                )  # fmt: skip
            weights.append(nn.utils.parameters_to_vector(objective.parameters()))
        fabric.barrier()
    return [torch.equal(weights[0], weights[2]), not torch.equal(weights[0], weights[1])]


def gathered(processes: Processes) -> list[Tensor]:
    """Return what the first process gets of trees of all, and the slope of its own part."""
    own = torch.arange(4.0).reshape(2, 2) + 10 * processes.rank
    own.requires_grad_()
    tree = processes.all_gather({"a": own, "b": own[:, 0]})
    (tree["a"] * (processes.rank + 1)).sum().backward()
    return [tree["a"].detach(), tree["b"].detach(), own.grad]


def main() -> None:
    torch.set_num_threads(1)
    machine = Machine(accelerator="cpu", devices=2, strategy="ddp")
    fabric = machine.fabric()
    processes = Processes(fabric.global_rank, fabric.world_size)
    results = {name: case.train(machine) for name, case in CASES.items()}
    parts = {"diverged": diverge(machine), "gathered": gathered(processes)}
    parts["resumed"] = processes.gather_objects([resumed(machine, fabric)])
    if fabric.is_global_zero:
        torch.save({"trained": results, **parts}, sys.argv[1])


if __name__ == "__main__":
    main()
