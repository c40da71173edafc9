"""One objective in training: its learning curve, validation and best weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING

from torch import Tensor

from metalens.data import TaskDistribution
from metalens.evaluation import Validation, evaluate, mean_scores
from metalens.metrics import METRICS, primary_metric
from metalens.objective import Objective
from metalens.samplers import Choice, TaskSampler, Uniform
from metalens.tasks import Task, place
from metalens.training.checkpoint import (
    State,
)
from metalens.training.loggers import Listeners
from metalens.training.nonfinite import FAULTS, OnNonfinite, TriedStep

if TYPE_CHECKING:
    import pandas as pd


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

    def choose(self, step: int, meta_batch_size: int) -> Choice:
        """Return the batch of an outer step, numbered from 0."""
        return self.sampler.choose(self.objective, self.tasks, step, meta_batch_size)

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
        self, tried: TriedStep, number: int, what: str, values: Sequence[float], on_nonfinite: OnNonfinite
    ) -> None:
        """Note that a step of this run, which has this number, is not finite."""
        if on_nonfinite == "raise":
            self.diverged = tried.number
            self.note(tried.number, {**tried.terms_of(number), "diverged": 1.0})
        elif not self.n_faults(tried.number - 1):
            if not self.n_faults(0):
                words = tried.fault(self.objective, number, what, values)
                warnings.warn(f"{words}; the step is {FAULTS[on_nonfinite]}, like all such.", stacklevel=2)
            self.note(tried.number, {FAULTS[on_nonfinite]: 1.0})

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
        metric = primary_metric(means)
        mean = means[metric]
        if not math.isfinite(mean):
            lost = rows[(rows["metric"] == metric) & ~rows["value"].abs().lt(math.inf)]["task"]
            warnings.warn(
                f"{len(lost)} of {self.validation.n_tasks} validation tasks have no finite {metric} at step "
                f"{step}, first task {lost.min()}; these weights do not count as the best.",
                stacklevel=2,
            )
        score = mean if METRICS[metric].better == "higher" else -mean
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
