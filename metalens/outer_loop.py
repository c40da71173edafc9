"""The outer loop: from task distributions to trained objectives, one or several side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens.checkpoint import (
    Checkpoints,
    State,
    load_optimizer_state,
    optimizer_state,
    random_streams,
    set_random_streams,
    taking_over,
)
from metalens.distributions import TaskDistribution
from metalens.errors import DivergenceError, MetaLensError
from metalens.evaluation import HIGHER_IS_BETTER, evaluate, mean_scores
from metalens.faults import FAULTS, OnFault, TriedStep, limit
from metalens.listeners import Listeners
from metalens.objective import Objective, outer_loss, trained_parameters
from metalens.samplers import Choice, TaskSampler, Uniform
from metalens.tasks import Task, place, stack_tasks

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
        patience: validations without a new best score after which training ends; `None` to make all steps.
    """

    tasks: TaskDistribution
    n_tasks: int = 200
    every: int = 500
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_tasks", "every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MetaLensError(f"Validation needs {name} of at least 1, got {value}.")


@dataclass(frozen=True, kw_only=True)
class OuterLoop:
    """The settings of the outer loop; see `metalens.fit`."""

    steps: int
    meta_batch: int
    outer_lr: float = 1e-3
    outer_optimizer: OuterOptimizer = "adam"
    schedule: Schedule = "constant"
    clip_norm: float | None = None
    on_fault: OnFault = "raise"

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch"):
            if getattr(self, name) < 1:
                raise MetaLensError(f"{name} must be at least 1, got {getattr(self, name)}.")
        allowed = {"outer_optimizer": OuterOptimizer, "schedule": Schedule, "on_fault": OnFault}
        for name, choices in allowed.items():
            if getattr(self, name) not in get_args(choices):
                raise MetaLensError(
                    f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}."
                )
        for name in ("outer_lr", "clip_norm"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise MetaLensError(f"{name} must be above 0 and finite, got {rate}.")

    def optimizer(
        self, module: nn.Module, *, fused: bool
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the optimizer of what a module trains, and the schedule of its step size."""
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[self.outer_optimizer]
        optimizer = make(trained_parameters(module), lr=self.outer_lr, fused=fused)
        shares = {
            "constant": lambda step: 1.0,
            "linear": lambda step: 1 - step / self.steps,
            "cosine": lambda step: (1 + math.cos(math.pi * step / self.steps)) / 2,
        }
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, shares[self.schedule])

    def descend(
        self,
        module: nn.Module,
        runs: Sequence[Run],
        fabric: Fabric,
        progress: Progress | None,
        checkpoints: Checkpoints | None = None,
        saved: State | None = None,
    ) -> None:
        """Train what the module computes, and write the learning curves of the runs.

        A run whose loss or gradient is not finite ends with that step, and the others go on; or the step is
        skipped or clipped, as `on_fault` says. If it is `"raise"`, no step waits for a device to look at the
        gradient, which then shows in the loss of the next one.

        Args:
            module: `tasks -> loss terms` of the objective of a single run, or of the replicas of all.
            runs: the objectives with their tasks.
            fabric: device, precision and strategy.
            progress: called with the step's number and its loss, a mean over the runs that go on, after every
                step.
            checkpoints: where the state is kept now and then, and after the last step.
            saved: the state to go on from; by default training begins.

        Raises:
            DivergenceError: no run goes on.
        """
        # A fused optimizer would undo the scaling of 16-mixed by itself, too late for clipping.
        scaled = fabric.strategy.precision.precision == "16-mixed"  # which leaves out such steps by itself
        fused = fabric.device.type in ("cpu", "cuda") and not scaled
        looks = not scaled and (fabric.device.type == "cpu" or self.on_fault != "raise")
        optimizer, scheduler = self.optimizer(module, fused=fused)
        processes = runs[0].objective.processes
        if len(runs) == 1 and fabric.loggers:
            runs[0].listeners.loggers = fabric.loggers
        position = _Position(runs, optimizer, scheduler, fabric)
        module, optimizer = fabric.setup(module, optimizer)
        module.train()
        weights = list(module.parameters())
        log_every = max(1, self.steps // 200)
        with taking_over():
            first, sums = (1, {}) if saved is None else position.restore(saved)
        for step in range(first, self.steps + 1):
            if _out_of_patience(runs):  # here, as a resumed training may have been at its end
                break
            for run in runs:
                run.objective.learner.set_progress((step - 1) / self.steps)
            choices = [run.choose(step - 1, self.meta_batch) for run in runs]
            batches = [choice.batch(run.tasks, processes) for run, choice in zip(runs, choices, strict=True)]
            shares = [choice.weights for choice in choices if choice.weights is not None]
            batch = side_by_side(batches)
            terms = module(*fabric.to_device((batch, *shares)))
            losses = outer_loss(terms)
            terms, means = processes.mean((terms, losses))
            values = means.flatten().tolist()
            tried = TriedStep(step, choices, batches, terms)
            is_sound = self._meets(runs, tried, "loss", values)
            if is_sound or self.on_fault != "skip":
                fabric.backward(losses.sum())
                if self.clip_norm is not None:
                    fabric.strategy.precision.unscale_gradients(position.optimizer)
                is_looked_at = looks or (step == self.steps and not scaled)
                norms = limit(weights, len(runs), self.clip_norm, self.on_fault, looks=is_looked_at)
                is_sound = self._meets(runs, tried, "norm of the gradient", norms) and is_sound
            going_on = [number for number, run in enumerate(runs) if run.diverged is None]
            if not is_sound and self.on_fault == "skip":
                optimizer.zero_grad()  # without a gradient the optimizer does nothing
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            counts = is_sound or self.on_fault == "raise"
            if counts:
                sums = {name: sums.get(name, 0.0) + term.detach() for name, term in terms.items()}
            if step % log_every == 0 or step == self.steps:
                n = log_every if step % log_every == 0 else step % log_every
                for number in going_on:
                    sound = n - runs[number].n_faults(step - n)
                    runs[number].note(step, {k: v.flatten()[number].item() / sound for k, v in sums.items()})
                sums = {}
            for number in going_on:
                run = runs[number]
                if counts and run.is_diagnosed(step, self.steps):
                    own = batch if len(runs) == 1 else pytree.tree_map(lambda t, r=number: t[r], batch)
                    shares = {name: (term / means).flatten()[number] for name, term in terms.items()}
                    run.diagnose(step, own, shares)
                run.validate(step, is_last=step == self.steps)
            if progress is not None:
                progress(step, sum(values[number] for number in going_on) / len(going_on))
            is_over = step == self.steps or _out_of_patience(runs)
            if checkpoints is None or checkpoints.is_due(step, processes) or is_over:
                for run in runs:  # no sooner: who goes on from the checkpoint tells nothing twice
                    run.listeners.tell(run.rows)
                if checkpoints is not None:
                    checkpoints.write(step, position.state(step, sums))
        for run in runs:
            run.keep_best()

    def _meets(self, runs: Sequence[Run], tried: TriedStep, what: str, values: Sequence[float]) -> bool:
        """Tell whether the values of all runs are finite, and do as `on_fault` says where they are not."""
        faulty = [n for n, v in enumerate(values) if runs[n].diverged is None and not math.isfinite(v)]
        if not faulty:
            return True
        for number in faulty:
            runs[number].meet_fault(tried, number, what, values, self.on_fault)
        if all(run.diverged is not None for run in runs):
            words = tried.fault(runs[faulty[0]].objective, faulty[0], what, values)
            for run in runs:
                run.listeners.tell(run.rows)
                run.keep_best()
            raise DivergenceError(f"{words}.")
        return False


@dataclass(frozen=True)
class _Position:
    """Where a training is, as far as it changes from step to step."""

    runs: Sequence[Run]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    fabric: Fabric

    def state(self, step: int, sums: dict[str, Tensor]) -> State:
        """Return everything on which the steps after this one depend; `sums` of terms since the last row."""
        processes = self.runs[0].objective.processes
        return {
            "step": step,
            "sums": sums,
            "runs": [run.state() for run in self.runs],
            "optimizer": optimizer_state(self.optimizer),
            "schedule": self.scheduler.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "streams": processes.collect([random_streams(self.fabric.device)]),
        }

    def restore(self, state: State) -> tuple[int, dict[str, Tensor]]:
        """Go where `state` was taken, and return the step that comes next, and the sums of terms."""
        device = self.fabric.device
        for run, of_run in zip(self.runs, state["runs"], strict=True):
            run.load(of_run)
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        set_random_streams(state["streams"][self.runs[0].objective.processes.rank], device)
        return index(state["step"]) + 1, {name: total.to(device) for name, total in state["sums"].items()}


@dataclass
class Run:
    """One objective in training.

    Attributes:
        objective: what is trained.
        tasks: its training tasks.
        validation: held-out tasks; with them the best weights are kept.
        sampler: which of the training tasks make each batch.
        listeners: who is told the learning curve.
        rows: its learning curve: step, split, metric, value.
        diverged: the step whose loss was not finite, with which training ended; `None` otherwise.
    """

    objective: Objective
    tasks: TaskDistribution
    validation: Validation | None = None
    sampler: TaskSampler = field(default_factory=Uniform)
    listeners: Listeners = field(default_factory=Listeners)
    rows: list[tuple[int, str, str, float]] = field(default_factory=list)
    diverged: int | None = None
    _best_score: float = -math.inf
    _best_weights: dict[str, Tensor] | None = None
    _n_worse: int = 0

    @property
    def is_out_of_patience(self) -> bool:
        """Whether as many validations as its patience have passed without a new best score."""
        patience = None if self.validation is None else self.validation.patience
        return patience is not None and self._n_worse >= patience

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to be used: not after a divergence before any validation."""
        return self.diverged is None or self._best_weights is not None

    def curve(self) -> pd.DataFrame:
        """Return the learning curve."""
        import pandas as pd  # takes as long to import as all of MetaLens

        types = {"step": int, "split": str, "metric": str, "value": float}  # also where there are no rows
        return pd.DataFrame(self.rows, columns=list(types)).astype(types)

    def choose(self, step: int, meta_batch: int) -> Choice:
        """Return the batch of an outer step, numbered from 0."""
        return self.sampler.choose(self.objective, self.tasks, step, meta_batch)

    def is_diagnosed(self, step: int, steps: int) -> bool:
        """Tell whether it is time for diagnostics: when a validation is, else ten times in a training."""
        every = max(1, steps // 10) if self.validation is None else self.validation.every
        return step % every == 0 or step == steps

    def diagnose(self, step: int, tasks: Task, shares: dict[str, Tensor]) -> None:
        """Note what the regularizers tell of a batch, and the shares of all terms in the outer loss."""
        learner = self.objective.learner
        found = self.objective.diagnostics(place(tasks, learner.device, learner.dtype))
        if len(shares) > 1:
            found |= {f"{name}_share": share.item() for name, share in shares.items()}
        self.note(step, found)

    def meet_fault(
        self, tried: TriedStep, number: int, what: str, values: Sequence[float], on_fault: OnFault
    ) -> None:
        """Note that a step of this run, which has this number, is not finite."""
        if on_fault == "raise":
            self.diverged = tried.number
            self.note(tried.number, {**tried.terms_of(number), "diverged": 1.0})
        elif not self.n_faults(tried.number - 1):
            if not self.n_faults(0):
                words = tried.fault(self.objective, number, what, values)
                warnings.warn(f"{words}; the step is {FAULTS[on_fault]}, like all such.", stacklevel=2)
            self.note(tried.number, {FAULTS[on_fault]: 1.0})

    def n_faults(self, after: int) -> int:
        """Return how many steps after one were skipped or clipped."""
        return sum(step > after and name in FAULTS.values() for step, _, name, _ in self.rows)

    def note(self, step: int, values: dict[str, float]) -> None:
        """Write values of training into the learning curve."""
        self.rows += [(step, "train", name, value) for name, value in values.items()]

    def validate(self, step: int, *, is_last: bool) -> None:
        """Score the objective on its held-out tasks where that is due, and remember the best weights."""
        if self.validation is None or not (is_last or step % self.validation.every == 0):
            return
        rows = evaluate(
            self.objective.learner,
            self.validation.tasks,
            n_tasks=self.validation.n_tasks,
            batching=self.objective.batching,
            chunk=self.objective.chunk,
            processes=self.objective.processes,
        )
        means = mean_scores(rows)
        self.rows += [(step, "val", metric, mean) for metric, mean in means.items()]
        metric, mean = next(iter(means.items()))
        if not math.isfinite(mean):
            lost = rows[(rows["metric"] == metric) & ~rows["value"].abs().lt(math.inf)]["task"]
            warnings.warn(
                f"{len(lost)} of {self.validation.n_tasks} validation tasks have no finite {metric} at step "
                f"{step}, first task {lost.min()}; these weights do not count as the best.",
                stacklevel=2,
            )
        score = mean if metric in HIGHER_IS_BETTER else -mean
        self._n_worse += 1
        if score > self._best_score:
            self._best_score, self._n_worse = score, 0
            self._best_weights = {k: v.detach().clone() for k, v in self.objective.state_dict().items()}

    def state(self) -> State:
        """Return everything of it that training changes."""
        return {
            "weights": self.objective.state_dict(),
            "sampler": self.sampler.state_dict(),
            "rows": self.rows,
            "diverged": self.diverged,
            "best_score": self._best_score,
            "n_worse": self._n_worse,
            "n_told": self.listeners.n_told,
            "best_weights": self._best_weights,
        }

    def load(self, state: State) -> None:
        """Take over what `state` returned."""
        if state["best_weights"] is not None:  # taken at the end, when damage would be found too late
            self.objective.load_state_dict(state["best_weights"])
        self.objective.load_state_dict(state["weights"])
        self.sampler.load_state_dict(state["sampler"])
        self.rows[:] = [tuple(row) for row in state["rows"]]
        self.diverged, self._best_score = state["diverged"], float(state["best_score"])
        self._n_worse, self._best_weights = index(state["n_worse"]), state["best_weights"]
        self.listeners.n_told = index(state["n_told"])

    def keep_best(self) -> None:
        """Return to the best weights, where there was a validation."""
        if self._best_weights is not None:
            self.objective.load_state_dict(self._best_weights)


def _out_of_patience(runs: Sequence[Run]) -> bool:
    """Tell whether all runs that have not diverged have lost their patience."""
    return all(run.is_out_of_patience for run in runs if run.diverged is None)


def side_by_side(batches: Sequence[Task]) -> Task:
    """Return the tasks of one run, `(T, ...)`, or of several, `(R, T, ...)`."""
    return batches[0] if len(batches) == 1 else stack_tasks(batches)
