"""Train objectives on tasks: one, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from safetensors.torch import save
from torch import nn

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError, check_type
from metalens.evaluation import Validation
from metalens.execution.machine import Machine
from metalens.execution.malloc import keep_freed_memory
from metalens.execution.plan import Execution, executable, is_trained
from metalens.execution.precision import in_precision
from metalens.execution.replicas import Replicas, ReplicationError
from metalens.io.files import atomic_path, remove_partials, writable_folder
from metalens.learners import Learner, NetworkLearner
from metalens.learners.given import explained, named_tensors
from metalens.objective import Objective
from metalens.processes import ALONE, Processes
from metalens.samplers import TaskSampler, Uniform
from metalens.tasks import as_dtype
from metalens.training.checkpoint import Checkpoints, restoring
from metalens.training.curve import LearningCurve
from metalens.training.fingerprint import fingerprint
from metalens.training.outer_loop import OuterLoop, Progress, side_by_side
from metalens.training.run import TrainingRun
from metalens.training.settings import TrainingOptions, TrainingSettings

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger

CHECKPOINT_EVERY = 60.0  # seconds
_SEEDS_APART = 1_000_003  # of processes, so that one seed's second process is not the next seed's first


def fit(
    objective: Objective,
    tasks: TaskDistribution,
    *,
    validation: Validation | None = None,
    sampler: TaskSampler | None = None,
    machine: Machine | None = None,
    out: str | Path | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    resume: bool = False,
    loggers: Sequence[Logger] = (),
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
    **settings: Unpack[TrainingOptions],
) -> pd.DataFrame:
    """Train an objective on batches of tasks.

    Step n descends the gradient of the outer loss on tasks `n * meta_batch_size ... (n + 1) * meta_batch_size
    - 1` of the distribution, so trainings with the same settings see the same tasks in the same order; a
    sampler may choose others. A learner that trains on all tasks as one problem gets
    `tasks.with_global_labels()`. Without trainable parameters no step is made.

    Args:
        objective: what to train; its parameters are changed in place.
        tasks: the distribution of training tasks.
        validation: held-out tasks; with it the weights with the best mean of the primary metric are kept,
            see `evaluate`, without it the last ones.
        sampler: chooses the tasks of each batch; by default `Uniform`. A sampler that learns continues from
            its present state.
        machine: how the training runs; by default `Machine()`, on one device that Lightning Fabric chooses.
            Each of several processes takes an equal share of the tasks of a step, and the first one writes.
        out: folder for `metrics.csv`, `weights.safetensors` and, in `checkpoints`, the newest two states of
            the training; nothing is written by default.
        checkpoint_every: seconds between two checkpoints; one more follows the last step. 0 writes one after
            every step, infinity none.
        resume: resume from the newest checkpoint in `out`, as if training had not been interrupted: the
            result is the same to the last bit on the same machine, with the same versions and threads.
            Without a checkpoint, training starts over; without `resume`, old checkpoints are deleted.
        loggers: of Lightning Fabric; they get the learning curve while it grows, see `LearningCurve`.
        progress: called after every step with its number and the loss of all processes. Where it returns
            true, in all processes, training ends with the best weights so far.
        on_execution: called before the first step with the way the steps are executed.
        **settings: `steps`, `meta_batch_size` and the other fields of `TrainingSettings`.

    Returns:
        The learning curve: rows `step, split, metric, value`; training terms are means over the steps since
        the previous row.

    Raises:
        MetaLensError: a setting is out of range, the meta-batch is too small for a regularizer or cannot be
            shared equally, the machine lacks something, or the checkpoints are of another training.
        DivergenceError: the loss or gradient is not finite; names the task and the reason. The objective has
            the best weights so far, if there was a validation.

    >>> from metalens import MAML, Objective, Sinusoid, fit, mlp
    >>> curve = fit(Objective(MAML(mlp())), Sinusoid(), steps=3, meta_batch_size=4)
    >>> curve.metric.unique().tolist()
    ['query']
    """
    training, machine = TrainingSettings.of(settings), machine or Machine()
    _check_types(machine, [objective], [tasks], [validation], [sampler])
    fabric = machine.fabric()
    folder = writable_folder(out) if out is not None and fabric.is_global_zero else None
    tasks, curve = training_tasks(objective.learner, tasks), LearningCurve(loggers=loggers)
    run = TrainingRun(objective, tasks, validation, sampler or Uniform(), curve)
    checkpoints = _checkpoints(out, fabric, every=checkpoint_every, resume=resume)
    (table,) = train([run], training, machine, fabric, checkpoints, progress, on_execution)
    if folder is not None:
        remove_partials(folder)
        with atomic_path(folder / "weights.safetensors") as path:
            path.write_bytes(save(objective.state_dict()))  # a full disk is an OSError then
        with atomic_path(folder / "metrics.csv") as path:
            table.to_csv(path, index=False)
    return table


def fit_together(
    objectives: Sequence[Objective],
    tasks: Sequence[TaskDistribution],
    *,
    validations: Sequence[Validation] | None = None,
    samplers: Sequence[TaskSampler] | None = None,
    machine: Machine | None = None,
    out: str | Path | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    resume: bool = False,
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
    **settings: Unpack[TrainingOptions],
) -> list[pd.DataFrame]:
    """Train several objectives side by side, each on its own tasks, in one vectorized step.

    Each ends as with `fit`, up to rounding; together they take little more time than one, if the networks are
    small. They may differ in weights and in settings that are real numbers: seeds, step sizes, strengths of
    regularizers. If the loss of one is not finite, it ends there with the row `diverged` in its curve, and
    the others continue.

    Args:
        objectives: R objectives of equal structure, trained in place.
        tasks: the training tasks of each, of equal shapes.
        validations: held-out tasks of each objective; each keeps its own best weights.
        samplers: the task sampler of each objective; several objectives need samplers that ask no model.
        machine: see `fit`; several objectives need a single process.
        out: folder for `checkpoints`; weights and curves are not written.
        checkpoint_every: see `fit`.
        resume: see `fit`.
        progress: called after every step with its number and the mean loss; see `fit`.
        on_execution: see `fit`.
        **settings: the fields of `TrainingSettings`, the same for all; several objectives need
            `on_nonfinite="raise"`, and draw nothing by `seed`.

    Returns:
        The R learning curves.

    Raises:
        ReplicationError: the objectives differ in more than numbers, draw random numbers in a step, loop
            over tasks, or have samplers that ask the model; nothing was changed, and `fit` can train each.
        DivergenceError: all objectives have diverged.
        MetaLensError: as `fit`.

    >>> from metalens import MAML, Objective, Sinusoid, fit_together, mlp
    >>> objectives = [Objective(MAML(mlp(), inner_lr=rate)) for rate in (0.003, 0.01, 0.03)]
    >>> len(fit_together(objectives, [Sinusoid()] * 3, steps=3, meta_batch_size=4))
    3
    """
    training, machine = TrainingSettings.of(settings), machine or Machine()
    for name, given in (("objectives", objectives), ("tasks", tasks)):
        check_type(given, Sequence, name, "give a list of them, or train a single objective by fit")
    held_out = [None] * len(objectives) if validations is None else validations
    choosers = [Uniform() for _ in objectives] if samplers is None else samplers
    if not len(objectives) == len(tasks) == len(held_out) == len(choosers) >= 1:
        raise MetaLensError(
            "fit_together needs tasks, validations and samplers for each objective, got "
            f"{len(objectives)} objectives, {len(tasks)} distributions of tasks, {len(held_out)} validations "
            f"and {len(choosers)} samplers."
        )
    _check_types(machine, objectives, tasks, held_out, choosers)
    if len(set(objectives)) < len(objectives):
        raise MetaLensError("fit_together got an objective twice; make one for each training.")
    runs = [
        TrainingRun(objective, training_tasks(objective.learner, of_one), validation, sampler)
        for objective, of_one, validation, sampler in zip(objectives, tasks, held_out, choosers, strict=True)
    ]
    fabric = machine.fabric()
    checkpoints = _checkpoints(out, fabric, every=checkpoint_every, resume=resume)
    return train(runs, training, machine, fabric, checkpoints, progress, on_execution)


def _check_types(
    machine: object, objectives: Iterable[object], tasks: Iterable[object], validations: Iterable[object],
    samplers: Iterable[object],
) -> None:  # fmt: skip
    """Raise `MetaLensError` where something of another class was given to a training."""
    check_type(machine, Machine, "machine", 'give one, such as Machine(accelerator="cpu")')
    kinds: list[tuple[str, type, str, Iterable[object]]] = [
        ("What is trained", Objective, "give Objective(learner)", objectives),
        ("tasks", TaskDistribution, "give a distribution, such as Sinusoid()", tasks),
        ("validation", Validation, "give Validation(tasks)", validations),
        ("sampler", TaskSampler, "give one, such as Uniform()", samplers),
    ]
    for name, kind, remedy, given in kinds:
        for value in given:
            if value is not None or name in ("What is trained", "tasks"):
                check_type(value, kind, name, remedy)


def train(
    runs: Sequence[TrainingRun],
    settings: TrainingSettings,
    machine: Machine,
    fabric: Fabric,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
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
        with assembled(runs, settings, machine, fabric, execution) as (module, execution):
            if on_execution is not None:
                on_execution(execution)
            if is_trained(module):
                with _reporting_unused_parameters():
                    OuterLoop(settings, module, runs, fabric, execution).run(progress, checkpoints, saved)
    return [run.curve.table() for run in runs]


@contextmanager
def assembled(
    runs: Sequence[TrainingRun],
    settings: TrainingSettings,
    machine: Machine,
    fabric: Fabric,
    execution: Execution | None = None,
) -> Iterator[tuple[nn.Module, Execution]]:
    """Yield the module that computes the outer steps of the runs, and their execution; see `executable`.

    The objectives are moved to the device of the Fabric, and within the block have its precision and share
    each batch with its processes. Several runs are computed side by side.

    Raises:
        ReplicationError: several runs cannot be computed side by side.
        MetaLensError: `compile=True`, the batching, the precision or a sampler is not possible.
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
            batch = fabric.to_device(as_dtype(side_by_side(batches), runs[0].objective.learner.dtype))
            batch = fabric.strategy.precision.convert_input(batch)
            if isinstance(module, Replicas):
                module.check(batch)
            with explained(runs[0].objective.learner, **named_tensors(batch)):
                found = executable(module, batch, machine, steps=settings.steps, execution=execution)
        on_failure.pop_all()
        yield found


def _for_samplers(runs: Sequence[TrainingRun], machine: Machine) -> Machine:
    """Return the machine, uncompiled if samplers weigh tasks."""
    if len(runs) > 1 and any(run.sampler.asks_model for run in runs):
        raise ReplicationError("Side by side, objectives need task samplers that do not ask the model.")
    if not any(run.sampler.weighs for run in runs):
        return machine
    if machine.compile is True:
        raise MetaLensError("compile=True is not possible: steps whose tasks are weighed are not compiled.")
    return replace(machine, compile=False)


def _checkpoints(out: str | Path | None, fabric: Fabric, *, every: float, resume: bool) -> Checkpoints | None:
    if out is None:
        if resume:
            raise MetaLensError("resume=True needs the folder of the interrupted training; give out.")
        return None
    folder = writable_folder(Path(out) / "checkpoints") if fabric.is_global_zero else None
    return Checkpoints(folder, every=every, resume=resume)


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
