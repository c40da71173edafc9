"""Train objectives on tasks: one, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from safetensors.torch import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError, check_type, extra
from metalens.evaluation import Validation
from metalens.execution.machine import Machine
from metalens.io.files import atomic_path, remove_partials, writable_folder
from metalens.objective import Objective
from metalens.samplers import TaskSampler, Uniform
from metalens.training.checkpoint import Checkpoints
from metalens.training.curve import LearningCurve
from metalens.training.hooks import Hooks, OnExecution, OnStep, OnValidation
from metalens.training.optimizer import OwnOptimizer
from metalens.training.run import TrainingRun
from metalens.training.settings import TrainingOptions, TrainingSettings
from metalens.training.train import CHECKPOINT_EVERY, train, training_tasks

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger


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
    optimizer: Callable[[Objective], Optimizer] | None = None,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    loggers: Sequence[Logger] = (),
    progress: bool = False,
    on_step: OnStep | None = None,
    on_validation: OnValidation | None = None,
    on_execution: OnExecution | None = None,
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
            the training; nothing is written by default. A folder that holds a training is refused, unless
            that is resumed.
        checkpoint_every: seconds between two checkpoints; one more follows the last step. 0 writes one after
            every step, infinity none.
        resume: resume from the newest checkpoint in `out`, as if training had not been interrupted: the
            result is the same to the last bit on the same machine, with the same versions and threads.
            Without a checkpoint, training starts over.
        optimizer: `objective -> optimizer`, in place of `outer_optimizer` and `outer_lr`: any of
            `torch.optim`, with groups of the objective's parameters.
        scheduler: `optimizer -> scheduler`, in place of `schedule`; stepped after each outer step.
        loggers: of Lightning Fabric; they get the learning curve while it grows, see `LearningCurve`.
        progress: show a progress bar in the terminal or the notebook.
        on_step: called after each step with its number, from 1, and the loss of all processes. Where it
            returns true, in all processes, training ends with the best weights so far.
        on_validation: called after each validation with the step and the mean scores by metric; the same.
        on_execution: called before the first step with the way the steps are executed.
        **settings: `steps`, `meta_batch_size` and the other fields of `TrainingSettings`.

    Returns:
        The learning curve: rows `step, split, metric, value`; training terms are means over the steps since
        the previous row.

    Raises:
        MetaLensError: a setting is out of range, the meta-batch is too small for a regularizer or cannot be
            shared equally, the tasks do not fit the learner, the machine lacks something, `out` holds a
            training, or the checkpoints are of another one.
        KeyboardInterrupt: the user ended training by Ctrl-C. The objective has the best weights so far, if
            there was a validation, and `resume` goes on from the last checkpoint.
        DivergenceError: the loss or gradient is not finite; names the task and the reason. The objective has
            the best weights so far, if there was a validation.

    >>> from metalens import MAML, Objective, Sinusoid, fit, mlp
    >>> curve = fit(Objective(MAML(mlp())), Sinusoid(), steps=3, meta_batch_size=4)
    >>> curve.metric.unique().tolist()
    ['query']
    """
    training, machine = TrainingSettings.of(settings), machine or Machine()
    _check_types(machine, [objective], [tasks], [validation], [sampler])
    check_type(progress, bool, "progress", "give a function as on_step")
    own = OwnOptimizer(optimizer, scheduler)
    own.check_options(settings)
    fabric = machine.fabric()
    folder = writable_folder(out) if out is not None and fabric.is_global_zero else None
    tasks, curve = training_tasks(objective.learner, tasks), LearningCurve(loggers=loggers)
    run = TrainingRun(objective, tasks, validation, sampler or Uniform(), curve)
    checkpoints = _checkpoints(out, fabric, every=checkpoint_every, resume=resume)
    with _shown(progress and fabric.is_global_zero, training.steps, on_step) as on_step:
        hooks = Hooks(on_step, on_validation, on_execution)
        if on_validation is not None and validation is None:
            raise MetaLensError("on_validation is called after validations; give validation, too.")
        (table,) = train([run], training, machine, fabric, checkpoints, hooks, own)
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
    on_step: OnStep | None = None,
    on_execution: OnExecution | None = None,
    **settings: Unpack[TrainingOptions],
) -> list[pd.DataFrame]:
    """Train several objectives side by side, each on its own tasks, in one vectorized step.

    Each ends as with `fit`, up to rounding; together they take little more time than one, if the networks are
    small. They may differ in weights and in settings that are real numbers: seeds, step sizes, strengths of
    regularizers. If the loss of one is not finite, it ends there with the row `diverged` in its curve, and
    the others continue. One that is out of patience is no longer computed, unless checkpoints are written or
    the step is compiled.

    Args:
        objectives: R objectives of equal structure, trained in place.
        tasks: the training tasks of each, of equal shapes.
        validations: held-out tasks of each objective; each keeps its own best weights.
        samplers: the task sampler of each objective; several objectives need samplers that ask no model.
        machine: see `fit`; several objectives need a single process.
        out: folder for `checkpoints`; weights and curves are not written.
        checkpoint_every: see `fit`.
        resume: see `fit`.
        on_step: called after each step with its number and the mean loss; see `fit`.
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
    return train(runs, training, machine, fabric, checkpoints, Hooks(on_step, on_execution=on_execution))


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


def _checkpoints(out: str | Path | None, fabric: Fabric, *, every: float, resume: bool) -> Checkpoints | None:
    if out is None:
        if resume:
            raise MetaLensError("resume=True needs the folder of the interrupted training; give out.")
        return None
    folder = None
    if fabric.is_global_zero:
        if not resume:
            _check_unused(Path(out))
        folder = writable_folder(Path(out) / "checkpoints")
    return Checkpoints(folder, every=every, resume=resume)


def _check_unused(folder: Path) -> None:
    """Raise `MetaLensError` if a folder holds a training."""
    found = [
        *folder.glob("*.safetensors"),
        *folder.glob("metrics.csv"),
        *folder.glob("checkpoints/*.safetensors"),
    ]
    if found:
        raise MetaLensError(
            f"{folder} holds a training ({found[0].relative_to(folder)}); choose another folder, resume it "
            "by resume=True, or delete it."
        )


def _shown(is_shown: bool, steps: int, on_step: OnStep | None) -> AbstractContextManager[OnStep | None]:
    """Return a block in which a bar shows the steps, if it is to; it yields what to call after each."""
    if not is_shown:
        return nullcontext(on_step)
    with extra("cli"):
        from metalens.training.progress import step_bar
    return step_bar(steps, on_step)
