"""Training in another precision than that of the weights, if its gradient is usable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.networks.modes import module_mode
from metalens.objective import Objective, terms_and_gradient, trained_parameters
from metalens.tasks import Task, place

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# The type of the weights, if it changes. In 16-true, steps of Adam underflow.
WHOLE = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
MIXED = ("bf16-mixed", "16-mixed")
N_TRIED_TASKS = 8


@contextmanager
def in_precision(
    fabric: Fabric, objective: Objective, tasks: TaskDistribution, meta_batch_size: int
) -> Iterator[None]:
    """Cast the weights of an objective to the Fabric's precision within the block.

    A lower precision than 32 bits is tried on a few tasks first, by each process alone: the gradient may be
    less precise, but not wrong.

    Raises:
        MetaLensError: the precision is not possible, or the gradient's error is as large as the gradient.
    """
    name = fabric.strategy.precision.precision
    if name not in ("32-true", *WHOLE, *MIXED):
        raise MetaLensError(f"precision={name!r} cannot be used; use 32-true, {', '.join([*WHOLE, *MIXED])}.")
    before = objective.learner.dtype
    try:
        if name in ("32-true", "64-true") or not trained_parameters(objective):
            objective.to(WHOLE.get(name, before))
        else:
            few = min(meta_batch_size, max(N_TRIED_TASKS, objective.min_meta_batch_size))
            batch = place(tasks.batch(range(few)), fabric.device, before)
            exact = _gradient(objective, batch)
            objective.to(WHOLE.get(name, before))
            _check(fabric, name, objective, batch, exact)
        yield
    finally:
        objective.to(before)


def _check(fabric: Fabric, name: str, objective: Objective, tasks: Task, exact: Tensor) -> None:
    try:
        with fabric.autocast():
            rough = _gradient(objective, fabric.strategy.precision.convert_input(tasks))
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise MetaLensError(
            f"precision={name!r} is not possible for this objective ({reason}); use '32-true', or for "
            "convolutions in mixed precision batching='loop'."
        ) from error
    error = ((rough - exact).norm() / exact.norm()).item()
    if not error < 1:
        raise MetaLensError(
            f"precision={name!r} is not usable for this objective: the error of its gradient is {error:.2g} "
            "times the gradient; use '32-true'."
        )


def _gradient(objective: Objective, tasks: Task) -> Tensor:
    with torch.random.fork_rng(), module_mode(objective, training=True):
        _, gradients = terms_and_gradient(objective, tasks, trained_parameters(objective))
    return torch.cat([gradient.flatten().float() for gradient in gradients])
