"""Which training it is: everything that its numbers depend on, as plain values by name."""

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

from metalens.execution.plan import Compile
from metalens.training.outer_loop import OuterLoop
from metalens.training.run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PLAIN = (str, int, float, bool, type(None))


def identity(
    runs: Sequence[Run], loop: OuterLoop, compile: Compile, seed: int, fabric: Fabric
) -> dict[str, Any]:
    """Return everything that the numbers of a training depend on, but for its first weights.

    >>> from lightning_fabric import Fabric
    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> runs = [Run(Objective(MAML(mlp(), inner_lr=0.1)), Sinusoid())]
    >>> identity(runs, OuterLoop(steps=9, meta_batch_size=4), "auto", 0, Fabric())["learner.inner_lr"]
    '0.1'
    """
    found = {
        "metalens": f"{version('metalens')}, source {source_digest()}",
        **{name: version(name) for name in ("torch", "numpy")},
        "threads": torch.get_num_threads(),
        "device": fabric.device.type,
        "precision": fabric.strategy.precision.precision,
        "processes": fabric.world_size,
        "compile": compile,
        "seed": seed,
        **asdict(loop),
    }
    for number, run in enumerate(runs):
        prefix = "" if len(runs) == 1 else f"objective {number}: "
        found |= {prefix + name: value for name, value in _of_run(run, loop.meta_batch_size).items()}
    return found


def _of_run(run: Run, meta_batch_size: int) -> dict[str, Any]:
    """Return the settings and data of a run."""
    found: dict[str, Any] = {}
    for name, module in run.objective.named_modules():
        if name:  # of the objective itself, what is settled at the start of training stands elsewhere
            found |= {f"{name}.{key}": value for key, value in _settings(module).items()}
    found |= {f"tasks.{name}": value for name, value in _settings(run.tasks).items()}
    found |= {f"sampler.{name}": value for name, value in _settings(run.sampler).items()}
    found["tasks.data"] = _digest(run.tasks.batch(range(meta_batch_size)).tensors)
    if run.validation is not None:
        held_out = run.validation.tasks
        found |= {f"validation.tasks.{name}": value for name, value in _settings(held_out).items()}
        found["validation.tasks.data"] = _digest(held_out.batch([0]).tensors)
        for name in ("n_tasks", "every", "patience"):
            found[f"validation.{name}"] = getattr(run.validation, name)
    return found


@cache
def source_digest() -> str:
    """Return what tells this source of MetaLens from any other.

    >>> len(source_digest())
    16
    """
    folder = Path(__file__).parent
    code = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        code.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return code.hexdigest()[:16]


def _settings(instance: object) -> dict[str, Any]:
    """Return the class of an object and those of its public attributes that are plain values, as texts."""
    found = {"class": type(instance).__name__}
    for name, value in vars(instance).items():
        parts = value if isinstance(value, list | tuple) else [value]
        if name[0] != "_" and name != "training" and all(isinstance(part, _PLAIN) for part in parts):
            found[name] = repr(value)
    return found


def _digest(tensors: tuple[Tensor, ...]) -> str:
    """Return what tells tensors of these values from any others."""
    content = save({str(number): tensor.cpu().clone() for number, tensor in enumerate(tensors)})
    return hashlib.sha256(content).hexdigest()[:16]
