"""The devices and processes of a run, as Lightning Fabric names them."""

from __future__ import annotations

import atexit
import logging
import os
from typing import TYPE_CHECKING

import torch

from metalens.errors import MetaLensError
from metalens.experiments.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def n_processes(recipe: Recipe) -> int:
    """Return the number of processes that train together, on all machines."""
    return recipe.devices * _n_machines()


def fabric_of(recipe: Recipe) -> Fabric:
    """Return the Fabric of a recipe, which has met its other processes.

    Raises:
        MetaLensError: this machine does not have what the recipe asks for.
    """
    from lightning_fabric import Fabric  # its import takes seconds, so only who trains waits for it

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each process
    try:
        fabric = Fabric(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            num_nodes=_n_machines(),
            strategy=recipe.strategy,
            precision=recipe.precision,
        )
        if (possible := fabric.strategy.precision.precision) != recipe.precision:
            raise ValueError(f"the nearest precision is {possible}.")
        fabric.launch()
        if fabric.world_size > 1:  # threads of the group must not outlive the interpreter, which would abort
            atexit.register(torch.distributed.destroy_process_group)
    except (ValueError, RuntimeError) as error:
        names = ("accelerator", "devices", "strategy", "precision")
        asked = [
            f"{name}={getattr(recipe, name)!r}"
            for name in names
            if getattr(recipe, name) != getattr(Recipe, name)
        ]
        reason = " ".join(str(error).split())
        raise MetaLensError(f"{', '.join(asked) or 'Training'} is not possible here: {reason}") from None
    return fabric


def _n_machines() -> int:
    return int(os.environ.get("GROUP_WORLD_SIZE", 1))  # set by torchrun
