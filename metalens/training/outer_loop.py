"""The outer loop: from task distributions to trained objectives, one or several side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens.errors import DivergenceError, MetaLensError
from metalens.objective import outer_loss, trained_parameters
from metalens.tasks import Task, stack_tasks
from metalens.training.checkpoint import (
    Checkpoints,
    State,
    random_streams,
    set_random_streams,
    taking_over,
)
from metalens.training.nonfinite import OnNonfinite, TriedStep, limit
from metalens.training.run import Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Progress = Callable[[int, float], None]
OuterOptimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class OuterLoop:
    """The settings of the outer loop; see `metalens.fit`."""

    steps: int
    meta_batch_size: int
    outer_lr: float = 1e-3
    outer_optimizer: OuterOptimizer = "adam"
    schedule: Schedule = "constant"
    clip_norm: float | None = None
    on_nonfinite: OnNonfinite = "raise"

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch_size"):
            if getattr(self, name) < 1:
                raise MetaLensError(f"{name} must be at least 1, got {getattr(self, name)}.")
        allowed = {"outer_optimizer": OuterOptimizer, "schedule": Schedule, "on_nonfinite": OnNonfinite}
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
        skipped or clipped, as `on_nonfinite` says. If it is `"raise"`, no step waits for a device to look at
        the gradient, which then shows in the loss of the next one.

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
        looks = not scaled and (fabric.device.type == "cpu" or self.on_nonfinite != "raise")
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
            choices = [run.choose(step - 1, self.meta_batch_size) for run in runs]
            batches = [choice.batch(run.tasks, processes) for run, choice in zip(runs, choices, strict=True)]
            shares = [choice.weights for choice in choices if choice.weights is not None]
            batch = side_by_side(batches)
            terms = module(*fabric.to_device((batch, *shares)))
            losses = outer_loss(terms)
            terms, means = processes.all_reduce_mean((terms, losses))
            values = means.flatten().tolist()
            tried = TriedStep(step, choices, batches, terms)
            is_sound = self._meets(runs, tried, "loss", values)
            if is_sound or self.on_nonfinite != "skip":
                fabric.backward(losses.sum())
                if self.clip_norm is not None:
                    fabric.strategy.precision.unscale_gradients(position.optimizer)
                is_looked_at = looks or (step == self.steps and not scaled)
                norms = limit(weights, len(runs), self.clip_norm, self.on_nonfinite, looks=is_looked_at)
                is_sound = self._meets(runs, tried, "norm of the gradient", norms) and is_sound
            going_on = [number for number, run in enumerate(runs) if run.diverged is None]
            if not is_sound and self.on_nonfinite == "skip":
                optimizer.zero_grad()  # without a gradient the optimizer does nothing
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            counts = is_sound or self.on_nonfinite == "raise"
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
        """Apply the `on_nonfinite` policy; return whether the values of all runs are finite."""
        faulty = [n for n, v in enumerate(values) if runs[n].diverged is None and not math.isfinite(v)]
        if not faulty:
            return True
        for number in faulty:
            runs[number].meet_fault(tried, number, what, values, self.on_nonfinite)
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
            "optimizer": self.optimizer.state_dict()["state"],
            "schedule": self.scheduler.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "streams": processes.gather_objects([random_streams(self.fabric.device)]),
        }

    def restore(self, state: State) -> tuple[int, dict[str, Tensor]]:
        """Go where `state` was taken, and return the step that comes next, and the sums of terms."""
        device = self.fabric.device
        for run, of_run in zip(self.runs, state["runs"], strict=True):
            run.load(of_run)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        self.scheduler.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        set_random_streams(state["streams"][self.runs[0].objective.processes.rank], device)
        return index(state["step"]) + 1, {name: total.to(device) for name, total in state["sums"].items()}


def _out_of_patience(runs: Sequence[Run]) -> bool:
    """Tell whether all runs that have not diverged have lost their patience."""
    return all(run.is_out_of_patience for run in runs if run.diverged is None)


def side_by_side(batches: Sequence[Task]) -> Task:
    """Return the tasks of one run, `(T, ...)`, or of several, `(R, T, ...)`."""
    return batches[0] if len(batches) == 1 else stack_tasks(batches)
