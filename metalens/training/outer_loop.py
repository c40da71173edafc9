"""The outer loop: gradient descent on the outer loss of one objective, or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from operator import index
from typing import TYPE_CHECKING

from torch import Tensor, nn

from metalens.errors import DivergenceError
from metalens.execution.plan import Execution
from metalens.execution.replicas import Replicas
from metalens.learners.given import explained, named_tensors
from metalens.objective import outer_loss
from metalens.tasks import Task, place_tasks, stack_tasks
from metalens.training.checkpoint import Checkpoints, State, random_streams, restoring, set_random_streams
from metalens.training.hooks import NO_HOOKS, Hooks
from metalens.training.nonfinite import describe_nonfinite
from metalens.training.optimizer import Descent
from metalens.training.run import TrainingRun
from metalens.training.settings import TrainingSettings
from metalens.training.step import OuterStep
from metalens.training.steps import steps_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class OuterLoop:
    """The outer steps of one run, or of several side by side.

    With `on_nonfinite="raise"`, a run whose loss or gradient is not finite ends with that step, the others
    continue, and no step waits for a device to check the gradient: its fault shows in the next loss.

    Args:
        settings: of the training.
        module: `tasks -> loss terms` of the objective of a single run, or of the replicas of all.
        runs: the objectives with their tasks.
        fabric: device, precision and strategy.
        execution: how the steps are executed, for the checkpoints.
        descent: optimizer and schedule.
    """

    def __init__(
        self, settings: TrainingSettings, module: nn.Module, runs: Sequence[TrainingRun], fabric: Fabric,
        execution: Execution, descent: Descent,
    ) -> None:  # fmt: skip
        self.settings, self.runs, self.fabric, self.execution = settings, runs, fabric, execution
        self._learners = [run.objective.learner for run in runs]
        self._replicas = module if isinstance(module, Replicas) else None  # unless compiled
        self.processes = runs[0].objective.processes
        self._descent = descent
        self._steps = steps_of(settings, module, descent, len(runs), fabric)
        for run in runs:
            run.average_weights(settings.ema)
        self._dtype = runs[0].objective.learner.dtype
        self._sums: dict[str, Tensor] = {}  # of the terms since the last row of the curve

    def run(
        self,
        hooks: Hooks = NO_HOOKS,
        checkpoints: Checkpoints | None = None,
        saved: State | None = None,
    ) -> None:
        """Take all steps, and keep the best weights, also where an error or the user ends them.

        Args:
            hooks: told of steps, with the mean loss of the remaining runs, and of a single run's validations.
            checkpoints: where the state is written.
            saved: the state to resume from.

        Raises:
            DivergenceError: all runs have diverged.
        """
        first = 1
        if saved is not None:
            with restoring():
                first = self._restore(saved)
        try:
            self._take_steps(first, hooks, checkpoints)
        finally:
            for run in self.runs:
                run.keep_best()

    def _take_steps(self, first: int, hooks: Hooks, checkpoints: Checkpoints | None) -> None:
        is_stopped = False
        for number in range(first, self.settings.steps + 1):
            if self._is_out_of_patience() or is_stopped:  # a resumed training may have been at its end
                break
            step = self._forward(number, is_first=number == first)
            counts = self._descend(step)
            self._record(step, counts=counts)
            scores = self._validate(step, counts=counts)
            if scores is not None and hooks.on_validation is not None:
                is_stopped = bool(hooks.on_validation(number, scores))
            if hooks.on_step is not None:
                active = self._active()
                loss = sum(step.losses[p] for p in active) / len(active)
                is_stopped = bool(hooks.on_step(number, loss)) or is_stopped
            self._save(number, checkpoints, is_over=is_stopped)
            if self._replicas is not None and checkpoints is None:
                self._leave_out_finished(self._replicas)

    def _active(self) -> list[int]:
        """Return the indices of the runs that have not diverged."""
        return [place for place, run in enumerate(self.runs) if run.diverged is None]

    def _is_out_of_patience(self) -> bool:
        return all(self.runs[place].is_out_of_patience for place in self._active())

    def _leave_out_finished(self, replicas: Replicas) -> None:
        """Go on without the runs that are out of patience, so that no step computes them."""
        places = [place for place, run in enumerate(self.runs) if not run.is_out_of_patience]
        if not 0 < len(places) < len(self.runs):
            return
        for run in self.runs:
            if run.is_out_of_patience:
                run.curve.log()
                run.keep_best()
        self._descent.keep(places, replicas.keep(places))
        self._steps.renew(len(places))
        self._sums = {name: total[places] for name, total in self._sums.items()}
        self.runs = [self.runs[place] for place in places]

    def _forward(self, number: int, *, is_first: bool) -> OuterStep:
        """Draw the tasks of a step, and compute its losses."""
        for learner in self._learners:
            learner.set_progress((number - 1) / self.settings.steps)
        choices = [run.choose(number - 1, self.settings.meta_batch_size) for run in self.runs]
        drawn = zip(self.runs, choices, strict=True)
        batches = [choice.batch(run.tasks, self.processes) for run, choice in drawn]
        for run, choice, batch in zip(self.runs, choices, batches, strict=True):
            run.objective.check_tasks(batch, self.processes.shard(choice.numbers))
        weights = [choice.weights for choice in choices if choice.weights is not None]
        device = self.fabric.device
        both = side_by_side(batches) if self._replicas is None else stack_tasks(batches)
        batch = place_tasks(both, device, self._dtype)
        learner = self.runs[0].objective.learner
        with explained(learner, **named_tensors(batch)) if is_first else nullcontext():
            terms = self._steps.losses(batch, *(of_tasks.to(device) for of_tasks in weights))
        loss = outer_loss(terms)
        terms, mean_loss = self.processes.all_reduce_mean((terms, loss))
        return OuterStep(number, choices, batches, terms, loss, mean_loss)

    def _descend(self, step: OuterStep) -> bool:
        """Take a step; return whether it counts in the curve, unlike skipped and clipped ones."""
        policy = self.settings.on_nonfinite
        is_finite = self._check_finite(step, "loss", step.losses)
        if is_finite or policy != "skip":
            norms = self._steps.norms(step.outer_loss.sum(), step.number)
            is_finite = self._check_finite(step, "norm of the gradient", norms) and is_finite
        is_skipped = not is_finite and policy == "skip"
        self._steps.update(is_skipped=is_skipped)
        if not is_skipped:
            for run in self.runs:
                run.update_average()
        return is_finite or policy == "raise"

    def _check_finite(self, step: OuterStep, what: str, values: Sequence[float]) -> bool:
        """Apply the `on_nonfinite` policy; return whether the values of all runs are finite."""
        faulty = [p for p, v in enumerate(values) if self.runs[p].diverged is None and not math.isfinite(v)]
        for place in faulty:
            self.runs[place].record_nonfinite(step, place, what, values, self.settings.on_nonfinite)
        if faulty and not self._active():
            words = describe_nonfinite(step, self.runs[faulty[0]].objective, faulty[0], what, values)
            for run in self.runs:
                run.curve.log()
            raise DivergenceError(f"{words}.")
        return not faulty

    def _record(self, step: OuterStep, *, counts: bool) -> None:
        """Add the means of the loss terms to the curves, every 200th of the training."""
        if counts:
            sums = self._sums
            self._sums = {name: sums.get(name, 0.0) + term.detach() for name, term in step.terms.items()}
        number, every = step.number, max(1, self.settings.steps // 200)
        if number % every and number != self.settings.steps:
            return
        n = number % every or every
        for place in self._active():
            run = self.runs[place]
            n_counted = n - run.n_nonfinite(number - n)
            means = {name: total.flatten()[place].item() / n_counted for name, total in self._sums.items()}
            run.curve.add(number, "train", means)
        self._sums = {}

    def _validate(self, step: OuterStep, *, counts: bool) -> dict[str, float] | None:
        """Add diagnostics and validation scores to the curves if they are due; return those scores."""
        number, last, scores = step.number, self.settings.steps, None
        for place in self._active():
            run = self.runs[place]
            if counts and run.is_diagnosed(number, last):
                run.diagnose(number, step.batches[place], step.shares_of(place))
            scores = run.validate(number, is_last=number == last)
        return scores

    def _save(self, number: int, checkpoints: Checkpoints | None, *, is_over: bool) -> None:
        """Log the curves and write a checkpoint if it is due; see `LearningCurve`."""
        is_over = is_over or number == self.settings.steps or self._is_out_of_patience()
        if checkpoints is None or checkpoints.is_due(number, self.processes) or is_over:
            for run in self.runs:
                run.curve.log()
            if checkpoints is not None:
                checkpoints.write(number, self._state(number))

    def _state(self, number: int) -> State:
        """Return everything on which later steps depend."""
        return {
            "step": number,
            "execution": asdict(self.execution),
            "sums": self._sums,
            "runs": [run.state() for run in self.runs],
            "descent": self._descent.state(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "streams": self.processes.gather_objects([random_streams(self.fabric.device)]),
        }

    def _restore(self, state: State) -> int:
        """Restore a state, and return the number of the next step."""
        device = self.fabric.device
        for run, of_run in zip(self.runs, state["runs"], strict=True):
            run.load(of_run)
        self._descent.load(state["descent"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        set_random_streams(state["streams"][self.processes.rank], device)
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        return index(state["step"]) + 1


def side_by_side(batches: Sequence[Task]) -> Task:
    """Return the tasks of one run, `(T, ...)`, or of several, `(R, T, ...)`."""
    return batches[0] if len(batches) == 1 else stack_tasks(batches)
