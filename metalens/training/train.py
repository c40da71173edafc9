"""The core of training: assemble runs on a machine, and take their outer steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.execution.machine import Machine
from metalens.execution.malloc import keep_freed_memory
from metalens.execution.plan import Execution, executable, is_trained
from metalens.execution.precision import in_precision
from metalens.execution.replicas import Replicas, ReplicationError
from metalens.execution.update import Update
from metalens.learners import Learner, NetworkLearner
from metalens.learners.given import explained, named_tensors
from metalens.objective import Objective, trained_parameters
from metalens.processes import ALONE, Processes
from metalens.tasks import place_tasks
from metalens.training.checkpoint import Checkpoints, restoring
from metalens.training.fingerprint import fingerprint
from metalens.training.hooks import NO_HOOKS, Hooks
from metalens.training.optimizer import BY_SETTINGS, Descent, OwnOptimizer
from metalens.training.outer_loop import OuterLoop, side_by_side
from metalens.training.run import TrainingRun
from metalens.training.settings import TrainingSettings
from metalens.training.steps import is_scaled

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

CHECKPOINT_EVERY = 60.0  # seconds
_SEEDS_APART = 1_000_003  # of processes, so that one seed's second process is not the next seed's first


def train(
    runs: Sequence[TrainingRun],
    settings: TrainingSettings,
    machine: Machine,
    fabric: Fabric,
    checkpoints: Checkpoints | None = None,
    hooks: Hooks = NO_HOOKS,
    own: OwnOptimizer = BY_SETTINGS,
) -> list[pd.DataFrame]:
    """Train one run, or several side by side: the core of `fit` and `fit_together`.

    `fabric` is that of the machine, launched; the runs are changed in place.
    """
    for run in runs:
        run.objective.learner.prepare(run.tasks)
        run.objective.check_meta_batch_size(settings.meta_batch_size, fabric.world_size)
        run.check_first_tasks()
    if is_trained(runs[0].objective) and not torch.is_grad_enabled():
        raise MetaLensError("Training needs gradients; leave torch.no_grad() or torch.inference_mode().")
    if len(runs) > 1 and fabric.world_size > 1:
        raise ReplicationError("Side by side, objectives are trained by one process; use devices=1.")
    if len(runs) > 1 and settings.on_nonfinite != "raise":
        raise ReplicationError("Side by side, no objective can skip a step alone; use on_nonfinite='raise'.")
    processes, saved, execution = processes_of(fabric), None, None
    with machine.set_threads(), torch.random.fork_rng():
        if checkpoints is not None and is_trained(runs[0].objective):
            saved = checkpoints.begin(fingerprint(runs, settings, machine, fabric), processes)
        if saved is not None:
            with restoring():
                execution = Execution(**saved["execution"])
        if machine.keep_freed_memory:
            keep_freed_memory()
        torch.manual_seed(settings.seed + _SEEDS_APART * processes.rank)
        with assembled(runs, settings, machine, fabric, execution, own) as (module, descent, execution):
            if hooks.on_execution is not None:
                hooks.on_execution(execution)
            if descent is not None:
                with _reporting_unused_parameters():
                    loop = OuterLoop(settings, module, runs, fabric, execution, descent)
                    loop.run(hooks, checkpoints, saved)
    return [run.curve.table() for run in runs]


@contextmanager
def assembled(
    runs: Sequence[TrainingRun],
    settings: TrainingSettings,
    machine: Machine,
    fabric: Fabric,
    execution: Execution | None = None,
    own: OwnOptimizer = BY_SETTINGS,
) -> Iterator[tuple[nn.Module, Descent | None, Execution]]:
    """Yield the module that computes the outer steps of the runs, their optimizer, and their execution.

    See `executable`. Where nothing is trained, there is no optimizer. The objectives are moved to the device
    of the Fabric, and within the block have its precision and share each batch with its processes. Several
    runs are computed side by side.

    Raises:
        ReplicationError: several runs cannot be computed side by side.
        MetaLensError: `compile=True`, the batching, the precision, a sampler or the optimizer is impossible.
    """
    machine = _for_samplers(runs, machine)
    processes, n = processes_of(fabric), settings.meta_batch_size
    with ExitStack() as stack:
        on_failure = stack.enter_context(ExitStack())
        for run in runs:
            objective = run.objective
            fabric.to_device(objective)
            for name in ("batching", "chunk"):
                on_failure.callback(setattr, objective, name, getattr(objective, name))
            objective.batching = machine.batching
            objective.chunk = machine.chunk if isinstance(machine.chunk, int) else None
            objective.learner.plan(machine.batching)  # refuses impossible batchings
            learner = objective.learner
            on_failure.callback(setattr, learner, "differentiation", learner.differentiation)
            learner.differentiation = machine.mode
            stack.enter_context(in_precision(fabric, objective, run.tasks, n))
            stack.callback(objective.learner.set_progress, 1.0)
            stack.callback(setattr, objective, "processes", ALONE)
            objective.processes = processes
            run.sampler.check(objective, run.tasks, n)
        module: Objective | Replicas = runs[0].objective
        if len(runs) > 1 and is_trained(module):
            module = Replicas([run.objective for run in runs])
            stack.callback(module.release)
        with fabric.autocast():
            numbers = processes.shard(range(n))
            batches = [run.tasks.batch(numbers) for run in runs]
            for run, of_run in zip(runs, batches, strict=True):
                run.objective.check_tasks(of_run, numbers)
            batch = place_tasks(side_by_side(batches), fabric.device, runs[0].objective.learner.dtype)
            batch = fabric.strategy.precision.convert_input(batch)
            if isinstance(module, Replicas):
                module.check(batch)
            descent = _descent(runs, settings, module, fabric, own) if is_trained(module) else None
            update = None if descent is None else _update(settings, module, descent, fabric)
            with explained(runs[0].objective.learner, **named_tensors(batch)):
                found, execution = executable(
                    module, batch, machine, steps=settings.steps, update=update, execution=execution
                )
        on_failure.pop_all()
        yield found, descent, execution


def _descent(
    runs: Sequence[TrainingRun],
    settings: TrainingSettings,
    module: nn.Module,
    fabric: Fabric,
    own: OwnOptimizer,
) -> Descent:
    # 16-mixed scales gradients and skips steps that are not finite; a fused optimizer unscales too late.
    fused = fabric.device.type in ("cpu", "cuda") and not is_scaled(fabric)
    return Descent(settings, module, runs[0].objective, own, fused=fused)


def _update(
    settings: TrainingSettings, module: Objective | Replicas, descent: Descent, fabric: Fabric
) -> Update | None:
    """Return the part of a step after the gradient, unless processes share it or its gradients are scaled."""
    if fabric.world_size > 1 or is_scaled(fabric):
        return None
    n = len(module.objectives) if isinstance(module, Replicas) else 1
    zero = settings.on_nonfinite == "clip"
    weights = trained_parameters(module)
    return Update(descent.optimizer, weights, n, settings.clip_norm, zero_nonfinite=zero)


def _for_samplers(runs: Sequence[TrainingRun], machine: Machine) -> Machine:
    """Return the machine, uncompiled if samplers weigh tasks."""
    if len(runs) > 1 and any(run.sampler.asks_model for run in runs):
        raise ReplicationError("Side by side, objectives need task samplers that do not ask the model.")
    if not any(run.sampler.weighs for run in runs):
        return machine
    if machine.compile is True:
        raise MetaLensError("compile=True is not possible: steps whose tasks are weighed are not compiled.")
    return replace(machine, compile=False)


def processes_of(fabric: Fabric) -> Processes:
    """Return the processes of a Fabric."""
    return Processes(fabric.global_rank, fabric.world_size)


@contextmanager
def _reporting_unused_parameters() -> Iterator[None]:
    """Reraise PyTorch's error about parameters without a gradient as a `MetaLensError`."""
    try:
        yield
    except RuntimeError as error:
        if "find_unused_parameters" not in str(error):
            raise
        raise MetaLensError(
            "Some parameters got no gradient, for which the processes wait; freeze or remove them, "
            "or use strategy='ddp_find_unused_parameters_true'."
        ) from error


def training_tasks(learner: Learner, tasks: TaskDistribution) -> TaskDistribution:
    """Return the tasks, with global labels if the learner needs them.

    Raises:
        MetaLensError: the number of classes differs from the outputs of the learner's head.
    """
    if not isinstance(learner, NetworkLearner) or not learner.needs_global_labels:
        return tasks
    tasks, n_outputs = tasks.with_global_labels(), learner.network.n_outputs
    if tasks.n_classes not in (None, n_outputs):
        raise MetaLensError(
            f"The head of {type(learner).__name__} has {n_outputs} outputs, and its training tasks have "
            f"{tasks.n_classes} classes together; set n_classes={tasks.n_classes}."
        )
    return tasks
