"""Fingerprint of a training: all inputs that determine its result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

import metalens
from metalens.execution.machine import Machine
from metalens.settings import plain_settings
from metalens.training.run import TrainingRun
from metalens.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fingerprint(
    runs: Sequence[TrainingRun], settings: TrainingSettings, machine: Machine, fabric: Fabric
) -> dict[str, Any]:
    """Return everything that determines the result of a training except for its initial weights, by name.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> runs = [TrainingRun(Objective(MAML(mlp(), inner_lr=0.1)), Sinusoid())]
    >>> settings, machine = TrainingSettings(steps=9, meta_batch_size=4), Machine(accelerator="cpu")
    >>> fingerprint(runs, settings, machine, machine.fabric())["learner.inner_lr"]
    '0.1'
    """
    found = {
        "metalens": f"{version('metalens')}, source {source_digest()}",
        **{name: version(name) for name in ("torch", "numpy")},
        "threads": torch.get_num_threads(),
        "device": fabric.device.type,
        "precision": fabric.strategy.precision.precision,
        "processes": fabric.world_size,
        "compile": machine.compile,
        **asdict(settings),
    }
    for number, run in enumerate(runs):
        prefix = "" if len(runs) == 1 else f"objective {number}: "
        found |= {prefix + name: value for name, value in _of_run(run, settings.meta_batch_size).items()}
    return found


def _of_run(run: TrainingRun, meta_batch_size: int) -> dict[str, Any]:
    parts: dict[str, object] = {"tasks": run.tasks, "sampler": run.sampler}
    # Without the objective itself: its batching is chosen when training starts.
    parts |= {name: module for name, module in run.objective.named_modules() if name}
    data = {"tasks.data": run.tasks.batch(range(meta_batch_size)).tensors}
    numbers: dict[str, Any] = {}
    if run.validation is not None:
        held_out = run.validation.tasks
        parts["validation.tasks"], data["validation.tasks.data"] = held_out, held_out.batch([0]).tensors
        for name in ("n_tasks", "every", "patience"):
            numbers[f"validation.{name}"] = getattr(run.validation, name)
    settings: dict[str, Any] = {}
    for name, part in parts.items():
        settings |= {f"{name}.{key}": value for key, value in plain_settings(part).items()}
    return settings | numbers | {name: _digest(tensors) for name, tensors in data.items()}


@cache
def source_digest() -> str:
    """Return a digest of the source code of MetaLens."""
    folder = Path(metalens.__file__).parent
    code = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        code.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return code.hexdigest()[:16]


def _digest(tensors: tuple[Tensor, ...]) -> str:
    content = save({str(number): tensor.cpu().clone() for number, tensor in enumerate(tensors)})
    return hashlib.sha256(content).hexdigest()[:16]
