"""The outer loop: one straight line from a task distribution to a trained objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils import _pytree as pytree

from metalens.allocator import keep_freed_memory
from metalens.distributions import TaskDistribution
from metalens.errors import MetaLensError
from metalens.evaluation import HIGHER_IS_BETTER, evaluate, mean_scores
from metalens.execution import Compile, Execution, prepare
from metalens.files import atomic_path
from metalens.learners import Learner
from metalens.objective import Objective, outer_loss

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

Progress = Callable[[int, float], None]
OuterOptimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Validation:
    """Held-out tasks that decide which weights are kept.

    Attributes:
        tasks: the distribution to validate on.
        n_tasks: how many of its tasks, always the same ones.
        every: steps between two validations.
    """

    tasks: TaskDistribution
    n_tasks: int = 200
    every: int = 500

    def __post_init__(self) -> None:
        if self.n_tasks < 1 or self.every < 1:
            raise MetaLensError(
                f"Validation needs n_tasks and every of at least 1, got {self.n_tasks} and {self.every}."
            )


def fit(
    objective: Objective,
    tasks: TaskDistribution,
    *,
    steps: int,
    meta_batch: int,
    outer_lr: float = 1e-3,
    outer_optimizer: OuterOptimizer = "adam",
    schedule: Schedule = "constant",
    clip_norm: float | None = None,
    validation: Validation | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> pd.DataFrame:
    """Train an objective on batches of tasks.

    Step n descends the gradient of the outer loss on tasks `n * meta_batch ... (n + 1) * meta_batch - 1`
    of the distribution, so runs with the same settings see the same tasks in the same order. A learner that
    trains on all tasks as one problem gets `tasks.pooled()`. Without trainable parameters nothing is done.
    The process keeps the memory that training frees; see `metalens.allocator`.

    Args:
        objective: what to train; its parameters are changed in place.
        tasks: the distribution of training tasks.
        steps: number of outer steps.
        meta_batch: tasks per step.
        outer_lr: step size of the outer optimizer.
        outer_optimizer: `"adam"`, or `"sgd"` for plain gradient descent.
        schedule: of the outer step size: `"constant"`, or down to 0 at the end by `"linear"` or `"cosine"`.
        clip_norm: largest norm of the outer gradient, or `None` for no limit.
        validation: held-out tasks; with it the weights with the best mean of the primary metric (accuracy
            or mean squared error) are kept, without it the last ones.
        compile: whether the outer step becomes one compiled program; `"auto"` decides by a short trial where
            the run is long, see `metalens.execution.prepare`.
        seed: of everything random inside training (dropout, regularizers); the tasks have their own.
        out: folder for `metrics.csv` and `weights.safetensors`; nothing is written by default.
        fabric: device, precision and strategy; by default Lightning Fabric's automatic choice of one
            device.
        progress: called with the step's number and its loss after every step.
        on_execution: called with the way the steps are executed, before the first one.

    Returns:
        The learning curve: rows `step, split, metric, value`, the training terms being means over the
        steps since the row before.

    Raises:
        MetaLensError: a setting is out of range, the meta-batch is too small for a regularizer, or the
            loss is no longer finite.

    >>> from metalens import MAML, Objective, Sinusoid, fit, mlp
    >>> curve = fit(Objective(MAML(mlp())), Sinusoid(), steps=3, meta_batch=4)
    >>> curve.metric.unique().tolist()
    ['query']
    """
    for name, value in (("steps", steps), ("meta_batch", meta_batch)):
        if value < 1:
            raise MetaLensError(f"{name} must be at least 1, got {value}.")
    for name, choice, choices in (
        ("outer_optimizer", outer_optimizer, OuterOptimizer),
        ("schedule", schedule, Schedule),
    ):
        if choice not in get_args(choices):
            raise MetaLensError(f"{name} must be one of {', '.join(get_args(choices))}, got {choice!r}.")
    for name, rate in (("outer_lr", outer_lr), ("clip_norm", clip_norm)):
        if rate is not None and not 0 < rate < math.inf:
            raise MetaLensError(f"{name} must be above 0 and finite, got {rate}.")
    import pandas as pd  # takes as long to import as all of MetaLens

    objective.check_meta_batch(meta_batch)
    folder = None if out is None else _writable_folder(out)
    if fabric is None:
        from lightning_fabric import Fabric  # its import takes seconds, so only who trains waits for it

        fabric = Fabric(accelerator="auto", devices=1)
    tasks = training_tasks(objective.learner, tasks)
    if fabric.world_size > 1:
        raise MetaLensError(
            f"fit runs on one device, got a Fabric with {fabric.world_size} processes; use devices=1."
        )
    rows = []
    keep_freed_memory()
    fabric.to_device(objective)
    if any(parameter.requires_grad for parameter in objective.parameters()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            optimizer, scheduler = _outer_optimizer(objective, outer_optimizer, outer_lr, schedule, steps)
            try:
                module, execution = prepare_on(
                    fabric, objective, tasks, steps=steps, meta_batch=meta_batch, compile=compile
                )
                if on_execution is not None:
                    on_execution(execution)
                rows = _descend(
                    objective, module, tasks, steps, meta_batch, optimizer, scheduler, clip_norm, validation,
                    fabric, progress,
                )  # fmt: skip
            finally:
                objective.learner.set_progress(1.0)
    curve = pd.DataFrame(rows, columns=["step", "split", "metric", "value"])
    if folder is not None:
        with atomic_path(folder / "weights.safetensors") as path:
            save_file(objective.state_dict(), path)
        with atomic_path(folder / "metrics.csv") as path:
            curve.to_csv(path, index=False)
    return curve


def prepare_on(
    fabric: Fabric,
    objective: Objective,
    tasks: TaskDistribution,
    *,
    steps: int,
    meta_batch: int,
    compile: Compile = "auto",
) -> tuple[nn.Module, Execution]:
    """Do as `metalens.execution.prepare`, with a batch on the device and in the precision of a Fabric."""
    with fabric.autocast():
        batch = pytree.tree_map(fabric.to_device, tasks.batch(range(meta_batch)))
        return prepare(objective, batch, steps=steps, compile=compile)


def training_tasks(learner: Learner, tasks: TaskDistribution) -> TaskDistribution:
    """Return the tasks as a learner is trained on them: pooled for one that trains on all as one problem.

    Raises:
        MetaLensError: pooled tasks have another number of classes than the learner's head has outputs.
    """
    if not learner.pooled:
        return tasks
    tasks, n_outputs = tasks.pooled(), learner.network.n_outputs
    if tasks.n_classes not in (None, n_outputs):
        raise MetaLensError(
            f"The head of {type(learner).__name__} has {n_outputs} outputs, and its training tasks have "
            f"{tasks.n_classes} classes together; set n_classes={tasks.n_classes}."
        )
    return tasks


def _outer_optimizer(
    objective: Objective, name: OuterOptimizer, lr: float, schedule: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    fused = objective.learner.device.type in ("cpu", "cuda")
    optimizer = make([p for p in objective.parameters() if p.requires_grad], lr=lr, fused=fused)
    shares = {
        "constant": lambda step: 1.0,
        "linear": lambda step: 1 - step / steps,
        "cosine": lambda step: (1 + math.cos(math.pi * step / steps)) / 2,
    }
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, shares[schedule])


def _descend(
    objective: Objective,
    module: nn.Module,
    tasks: TaskDistribution,
    steps: int,
    meta_batch: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    clip_norm: float | None,
    validation: Validation | None,
    fabric: Fabric,
    progress: Progress | None,
) -> list[tuple[int, str, str, float]]:
    module, optimizer = fabric.setup(module, optimizer)
    module.train()
    log_every = max(1, steps // 200)
    rows: list[tuple[int, str, str, float]] = []
    sums: dict[str, torch.Tensor] = {}
    best_score, best_weights = -math.inf, None
    for step in range(1, steps + 1):
        objective.learner.set_progress((step - 1) / steps)
        batch = tasks.batch(range((step - 1) * meta_batch, step * meta_batch))
        terms = module(pytree.tree_map(fabric.to_device, batch))
        loss = outer_loss(terms)
        value = loss.item()
        if not math.isfinite(value):
            raise MetaLensError(
                f"The loss is {value} at step {step} (tasks {(step - 1) * meta_batch} to "
                f"{step * meta_batch - 1}): training diverged; lower inner_lr or outer_lr, or set clip_norm."
            )
        fabric.backward(loss)
        if clip_norm is not None:
            fabric.clip_gradients(module, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        sums = {name: sums.get(name, 0.0) + term.detach() for name, term in terms.items()}
        if step % log_every == 0 or step == steps:
            n = log_every if step % log_every == 0 else step % log_every
            rows += [(step, "train", name, float(total) / n) for name, total in sums.items()]
            sums = {}
        if validation is not None and (step % validation.every == 0 or step == steps):
            means = _validate(objective, validation)
            rows += [(step, "val", metric, mean) for metric, mean in means.items()]
            metric, mean = next(iter(means.items()))
            score = mean if metric in HIGHER_IS_BETTER else -mean
            if score > best_score:
                best_score = score
                best_weights = {k: v.detach().clone() for k, v in objective.state_dict().items()}
        if progress is not None:
            progress(step, value)
    if best_weights is not None:
        objective.load_state_dict(best_weights)
    return rows


def _validate(objective: Objective, validation: Validation) -> dict[str, float]:
    rows = evaluate(
        objective.learner, validation.tasks, n_tasks=validation.n_tasks, batching=objective.batching
    )
    return mean_scores(rows)


def _writable_folder(out: str | Path) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):  # an existing folder may still refuse
            pass
    except OSError as error:
        raise MetaLensError(f"Cannot write to {folder}: {error.strerror}; choose another folder.") from error
    return folder
