"""Train objectives on tasks: one, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import nn

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.evaluation import Validation
from metalens.execution.malloc import keep_freed_memory
from metalens.execution.plan import Compile, Execution, is_trained, prepare
from metalens.execution.precision import in_precision
from metalens.execution.replicas import Replicas, ReplicationError
from metalens.io.files import atomic_path, remove_partials, writable_folder
from metalens.learners import Learner, NetworkLearner
from metalens.objective import Objective
from metalens.processes import ALONE, Processes
from metalens.samplers import TaskSampler, Uniform
from metalens.training.checkpoint import Checkpoints, taking_over
from metalens.training.fingerprint import identity
from metalens.training.nonfinite import OnNonfinite
from metalens.training.outer_loop import OuterLoop, OuterOptimizer, Progress, Schedule, side_by_side
from metalens.training.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

CHECKPOINT_EVERY = 60.0  # seconds
_SEEDS_APART = 1_000_003  # of processes, so that one seed's second process is not the next seed's first


def fit(
    objective: Objective,
    tasks: TaskDistribution,
    *,
    steps: int,
    meta_batch_size: int,
    outer_lr: float = 1e-3,
    outer_optimizer: OuterOptimizer = "adam",
    schedule: Schedule = "constant",
    clip_norm: float | None = None,
    on_nonfinite: OnNonfinite = "raise",
    validation: Validation | None = None,
    sampler: TaskSampler | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    resume: bool = False,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> pd.DataFrame:
    """Train an objective on batches of tasks.

    Step n descends the gradient of the outer loss on tasks `n * meta_batch_size ... (n + 1) * meta_batch_size
    - 1` of the distribution, so runs with the same settings see the same tasks in the same order; a sampler
    may choose others. A learner that trains on all tasks as one problem gets `tasks.with_global_labels()`.
    Without trainable parameters no step is made.
    The process keeps the memory that training frees, unless it is short; see `metalens.execution.malloc`.

    Args:
        objective: what to train; its parameters are changed in place.
        tasks: the distribution of training tasks.
        steps: number of outer steps.
        meta_batch_size: tasks per step.
        outer_lr: step size of the outer optimizer.
        outer_optimizer: `"adam"`, or `"sgd"` for plain gradient descent.
        schedule: of the outer step size: `"constant"`, or down to 0 at the end by `"linear"` or `"cosine"`.
        clip_norm: largest norm of the outer gradient, or `None` for no limit.
        on_nonfinite: what to do about a step whose loss or gradient is not finite: `"raise"` ends training,
            `"skip"` leaves the step out, `"clip"` makes it without those entries of the gradient. The curve
            has a row `skipped` or `clipped` for each such step, and a warning tells of the first.
        validation: held-out tasks; with it the weights with the best mean of the primary metric (accuracy
            or mean squared error) are kept, without it the last ones.
        sampler: which tasks make each batch; by default `Uniform`. One that learns goes on from where it is.
        compile: whether the outer step becomes one compiled program; `"auto"` decides by a short trial where
            the run is long, see `metalens.execution.plan.prepare`.
        seed: of everything random inside training (dropout, regularizers); the tasks have their own.
        out: folder for `metrics.csv`, `weights.safetensors` and, in `checkpoints`, the newest two states of
            the training; nothing is written by default.
        checkpoint_every: seconds between two checkpoints; one more follows the last step. 0 writes one after
            every step, infinity none.
        resume: go on from the newest checkpoint in `out`, as if training had not been interrupted: the result
            is the same to the last bit where machine, versions and threads are the same. Without a
            checkpoint, training begins; without `resume`, checkpoints of earlier trainings are deleted.
        fabric: devices, strategy and precision; by default Lightning Fabric's automatic choice of one device.
            Each of several processes, which must have been launched, takes an equal share of the tasks of a
            step, and the first of them writes files. Its loggers are told the curve, see `Listeners`.
        progress: called with the step's number and its loss, that of all processes, after every step.
        on_execution: called with the way the steps are executed, before the first one.

    Returns:
        The learning curve: rows `step, split, metric, value`, the training terms being means over the
        steps since the row before.

    Raises:
        MetaLensError: a setting is out of range, the meta-batch is too small for a regularizer or cannot be
            shared equally, the Fabric cannot be used, or the checkpoints are of another training.
        DivergenceError: loss or gradient are not finite, of which task and for what reason it says; the
            objective has the best weights so far if there was a validation.

    >>> from metalens import MAML, Objective, Sinusoid, fit, mlp
    >>> curve = fit(Objective(MAML(mlp())), Sinusoid(), steps=3, meta_batch_size=4)
    >>> curve.metric.unique().tolist()
    ['query']
    """
    folder = writable_folder(out) if out is not None and _is_first(fabric) else None
    (curve,) = fit_together(
        [objective],
        [tasks],
        steps=steps,
        meta_batch_size=meta_batch_size,
        outer_lr=outer_lr,
        outer_optimizer=outer_optimizer,
        schedule=schedule,
        clip_norm=clip_norm,
        on_nonfinite=on_nonfinite,
        validations=None if validation is None else [validation],
        samplers=None if sampler is None else [sampler],
        compile=compile,
        seed=seed,
        out=out,
        checkpoint_every=checkpoint_every,
        resume=resume,
        fabric=fabric,
        progress=progress,
        on_execution=on_execution,
    )
    if folder is not None:
        remove_partials(folder)
        with atomic_path(folder / "weights.safetensors") as path:
            path.write_bytes(save(objective.state_dict()))  # a full disk is an OSError then
        with atomic_path(folder / "metrics.csv") as path:
            curve.to_csv(path, index=False)
    return curve


def fit_together(
    objectives: Sequence[Objective],
    tasks: Sequence[TaskDistribution],
    *,
    steps: int,
    meta_batch_size: int,
    outer_lr: float = 1e-3,
    outer_optimizer: OuterOptimizer = "adam",
    schedule: Schedule = "constant",
    clip_norm: float | None = None,
    on_nonfinite: OnNonfinite = "raise",
    validations: Sequence[Validation] | None = None,
    samplers: Sequence[TaskSampler] | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
    resume: bool = False,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> list[pd.DataFrame]:
    """Train several objectives side by side, each on its own tasks, in one vectorized step.

    Each ends as `fit` would leave it, up to the rounding of numbers; together they take little more time than
    one, as long as the networks are small. They may differ in weights and in settings that are real numbers:
    seeds, inner step sizes, strengths of regularizers. One whose loss is no longer finite ends there, and the
    others go on; the last row of its curve is `diverged`.

    Args:
        objectives: R objectives of equal structure, trained in place.
        tasks: the training tasks of each, of equal shapes.
        steps: see `fit`, as the settings below.
        meta_batch_size: tasks per step of each objective.
        outer_lr: step size of the outer optimizer.
        outer_optimizer: `"adam"` or `"sgd"`.
        schedule: of the outer step size.
        clip_norm: largest norm of the outer gradient of each objective.
        on_nonfinite: several objectives need `"raise"`.
        validations: held-out tasks of each objective; each keeps its own best weights.
        samplers: the task sampler of each objective; several objectives need samplers that ask no model.
        compile: whether the step of all becomes one compiled program.
        seed: of everything random inside training; several objectives draw nothing there.
        out: folder for `checkpoints`; weights and curves are left to the caller.
        checkpoint_every: see `fit`.
        resume: see `fit`.
        fabric: device and precision, for a single process.
        progress: called with the step's number and the mean loss after every step.
        on_execution: called with the way the steps are executed, before the first one.

    Returns:
        The R learning curves.

    Raises:
        ReplicationError: the objectives differ in more than numbers, draw random numbers in a step, loop
            over tasks, or have samplers that ask the model; nothing was changed, and `fit` can train them one
            by one.
        DivergenceError: no objective has a finite loss any more.
        MetaLensError: as `fit`.

    >>> from metalens import MAML, Objective, Sinusoid, fit_together, mlp
    >>> objectives = [Objective(MAML(mlp(), inner_lr=rate)) for rate in (0.003, 0.01, 0.03)]
    >>> curves = fit_together(objectives, [Sinusoid()] * 3, steps=3, meta_batch_size=4)
    >>> len(curves)
    3
    """
    loop = OuterLoop(
        steps=steps,
        meta_batch_size=meta_batch_size,
        outer_lr=outer_lr,
        outer_optimizer=outer_optimizer,
        schedule=schedule,
        clip_norm=clip_norm,
        on_nonfinite=on_nonfinite,
    )
    held_out = [None] * len(objectives) if validations is None else validations
    choosers = [Uniform() for _ in objectives] if samplers is None else samplers
    if not len(objectives) == len(tasks) == len(held_out) == len(choosers) >= 1:
        raise MetaLensError(
            "fit_together needs tasks, validations and samplers for each objective, got "
            f"{len(objectives)} objectives, {len(tasks)} distributions of tasks, {len(held_out)} validations "
            f"and {len(choosers)} samplers."
        )
    runs = [
        Run(objective, training_tasks(objective.learner, of_one), validation, sampler)
        for objective, of_one, validation, sampler in zip(objectives, tasks, held_out, choosers, strict=True)
    ]
    checkpoints = None
    if out is not None:
        folder = writable_folder(Path(out) / "checkpoints") if _is_first(fabric) else None
        checkpoints = Checkpoints(folder, every=checkpoint_every, resume=resume)
    elif resume:
        raise MetaLensError("resume=True needs the folder of the interrupted training; give out.")
    return train(
        runs,
        loop,
        compile=compile,
        seed=seed,
        checkpoints=checkpoints,
        fabric=fabric,
        progress=progress,
        on_execution=on_execution,
    )


def train(
    runs: Sequence[Run],
    loop: OuterLoop,
    *,
    compile: Compile = "auto",
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> list[pd.DataFrame]:
    """Do as `fit_together`, with the objectives as runs and the settings of the outer loop as one.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> loop = OuterLoop(steps=3, meta_batch_size=4)
    >>> (curve,) = train([Run(Objective(MAML(mlp())), Sinusoid())], loop)
    >>> curve.step.tolist()
    [1, 2, 3]
    """
    for run in runs:
        run.objective.learner.prepare(run.tasks)
        run.objective.check_meta_batch_size(loop.meta_batch_size, 1 if fabric is None else fabric.world_size)
    if fabric is None:
        from lightning_fabric import Fabric  # its import takes seconds, so only who trains waits for it

        fabric = Fabric(accelerator="auto", devices=1)
    _check_strategy(fabric)
    processes = processes_of(fabric)
    if processes.world_size > 1 and len(runs) > 1:
        raise ReplicationError("Side by side, objectives are trained by one process; use devices=1.")
    if loop.on_nonfinite != "raise" and len(runs) > 1:
        raise ReplicationError("Side by side, no objective can skip a step alone; use on_nonfinite='raise'.")
    saved = None
    if checkpoints is not None and is_trained(runs[0].objective):
        saved = checkpoints.begin(identity(runs, loop, compile, seed, fabric), processes)
    with taking_over():
        chosen = None if saved is None else Execution(**saved["execution"])
    keep_freed_memory()
    with torch.random.fork_rng():
        torch.manual_seed(seed + _SEEDS_APART * processes.rank)
        settings = (loop.steps, loop.meta_batch_size, compile, fabric, processes, chosen)
        with prepared(runs, *settings) as (module, execution):
            if checkpoints is not None:
                checkpoints.fixed = {"execution": asdict(execution)}
            if on_execution is not None:
                on_execution(execution)
            if is_trained(module):
                with _every_gradient_needed():
                    loop.descend(module, runs, fabric, progress, checkpoints, saved)
    return [run.curve() for run in runs]


@contextmanager
def prepared(
    runs: Sequence[Run],
    steps: int,
    meta_batch_size: int,
    compile: Compile,
    fabric: Fabric,
    processes: Processes = ALONE,
    chosen: Execution | None = None,
) -> Iterator[tuple[nn.Module, Execution]]:
    """Yield a module that computes the outer steps of the runs, and how; see
    `metalens.execution.plan.prepare`.

    The objectives are moved to the device of the Fabric, and within the block have its precision and share
    each batch with its processes. Several runs are computed side by side.

    Raises:
        ReplicationError: several runs cannot be computed side by side.
        MetaLensError: `compile=True`, the precision or a sampler is not possible.
    """
    weighed = any(run.sampler.weighs for run in runs)
    if weighed and compile is True:
        raise MetaLensError("compile=True is not possible: steps whose tasks are weighed are not compiled.")
    if len(runs) > 1 and any(run.sampler.asks_model for run in runs):
        raise ReplicationError("Side by side, objectives need task samplers that do not ask the model.")
    replicas = None
    with ExitStack() as stack:
        for run in runs:
            fabric.to_device(run.objective)
            stack.enter_context(in_precision(fabric, run.objective, run.tasks, meta_batch_size))
            stack.callback(run.objective.learner.set_progress, 1.0)
            stack.callback(setattr, run.objective, "processes", ALONE)
            run.objective.processes = processes
            run.sampler.check(run.objective, run.tasks, meta_batch_size)
        if len(runs) > 1 and is_trained(runs[0].objective):
            replicas = Replicas([run.objective for run in runs])
            stack.callback(replicas.release)
        with fabric.autocast():
            numbers = processes.shard(range(meta_batch_size))
            batch = fabric.to_device(side_by_side([run.tasks.batch(numbers) for run in runs]))
            batch = fabric.strategy.precision.convert_input(batch)
            if replicas is not None:
                replicas.check(batch)
            module = replicas or runs[0].objective
            may_compile = False if weighed else compile
            choice = prepare(module, batch, steps=steps, compile=may_compile, chosen=chosen)
        yield choice


def processes_of(fabric: Fabric) -> Processes:
    """Return the processes of a Fabric."""
    return Processes(fabric.global_rank, fabric.world_size)


def _is_first(fabric: Fabric | None) -> bool:
    """Tell whether this is the process that writes."""
    return fabric is None or fabric.is_global_zero


def _check_strategy(fabric: Fabric) -> None:
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    if not isinstance(fabric.strategy, DDPStrategy | SingleDeviceStrategy):
        raise MetaLensError(
            f"fit needs a Fabric with one device or strategy='ddp', got {type(fabric.strategy).__name__}: "
            "the inner loop needs all parameters in each process."
        )


@contextmanager
def _every_gradient_needed() -> Iterator[None]:
    """Say what is meant where processes wait for the gradient of a parameter that gets none."""
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
    """Return the tasks as a learner is trained on them: with global labels if it needs these.

    Raises:
        MetaLensError: the tasks together have another number of classes than the learner's head has outputs.
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
