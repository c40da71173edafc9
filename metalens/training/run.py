"""One training: an objective with its tasks, learning curve and best weights."""

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import index

from torch import Tensor

from metalens.data import TaskDistribution
from metalens.evaluation import Validation, evaluate, mean_scores, metrics_of
from metalens.learners.given import check_batch
from metalens.learners.inputs import check_fields
from metalens.learners.labels import check_labels
from metalens.metrics import Metric
from metalens.objective import Objective
from metalens.samplers import Choice, TaskSampler, Uniform
from metalens.tasks import Task, place
from metalens.training.averaging import WeightAverage
from metalens.training.checkpoint import State
from metalens.training.curve import LearningCurve
from metalens.training.nonfinite import FAULTS, describe_nonfinite
from metalens.training.settings import OnNonfinite
from metalens.training.step import OuterStep


@dataclass
class TrainingRun:
    """One objective in training; several share the steps of an outer loop.

    Attributes:
        objective: what is trained.
        tasks: its training tasks.
        validation: held-out tasks; with them the best weights are kept.
        sampler: chooses the training tasks of each batch.
        curve: its learning curve.
        diverged: the step whose loss was not finite, which ended training; `None` otherwise.
    """

    objective: Objective
    tasks: TaskDistribution
    validation: Validation | None = None
    sampler: TaskSampler = field(default_factory=Uniform)
    curve: LearningCurve = field(default_factory=LearningCurve)
    diverged: int | None = None
    _best_score: float = -math.inf
    _best_weights: dict[str, Tensor] | None = None
    _n_worse: int = 0
    _average: WeightAverage | None = None
    _primary: Metric | None = None  # that decides

    @property
    def is_out_of_patience(self) -> bool:
        """Whether `patience` validations have passed without a new best score."""
        patience = None if self.validation is None else self.validation.patience
        return patience is not None and self._n_worse >= patience

    @property
    def has_weights(self) -> bool:
        """Whether there are usable weights: not if training diverged before any validation."""
        return self.diverged is None or self._best_weights is not None

    def check_first_tasks(self) -> None:
        """Raise `MetaLensError` if the first training or validation task does not fit the learner."""
        learner = self.objective.learner
        for tasks in (self.tasks, *([] if self.validation is None else [self.validation.tasks])):
            check_fields(learner, tasks)
            first = tasks.batch([0])
            check_batch(first, learner.min_support)
            check_labels(learner, first, [0])
            if self.validation is not None and tasks is self.validation.tasks:
                self._primary = metrics_of(learner, tasks, first.query.y, self.validation.metrics)[0]

    def average_weights(self, decay: float | None) -> None:
        """Average the weights from here on, unless the decay is `None`."""
        self._average = None if decay is None else WeightAverage(self.objective, decay)

    def update_average(self) -> None:
        """Take the weights after a step into their average, if there is one."""
        if self._average is not None:
            self._average.update()

    def choose(self, step: int, meta_batch_size: int) -> Choice:
        """Return the batch of an outer step, numbered from 0."""
        return self.sampler.choose(self.objective, self.tasks, step, meta_batch_size)

    def is_diagnosed(self, step: int, steps: int) -> bool:
        """Return whether diagnostics are due: with each validation, or ten times in a training."""
        every = max(1, steps // 10) if self.validation is None else self.validation.every
        return step % every == 0 or step == steps

    def diagnose(self, step: int, tasks: Task, shares: dict[str, Tensor]) -> None:
        """Log the regularizers' diagnostics of a batch, and the shares of all terms in the outer loss."""
        learner = self.objective.learner
        found = self.objective.diagnostics(place(tasks, learner.device, learner.dtype))
        if len(shares) > 1:
            found |= {f"{name}_share": share.item() for name, share in shares.items()}
        self.curve.add(step, "train", found)

    def record_nonfinite(
        self, step: OuterStep, place: int, what: str, values: Sequence[float], on_nonfinite: OnNonfinite
    ) -> None:
        """Record that a step of this run is not finite; its first such step gives a warning."""
        before = step.number - 1
        if on_nonfinite == "raise":
            self.diverged = step.number
            self.curve.add(step.number, "train", {**step.terms_of(place), "diverged": 1.0})
        elif not self.n_nonfinite(after=before):
            if not self.n_nonfinite(after=0):
                words = describe_nonfinite(step, self.objective, place, what, values)
                warnings.warn(
                    f"{words}; the step is {FAULTS[on_nonfinite]}, as are later ones.", stacklevel=2
                )
            self.curve.add(step.number, "train", {FAULTS[on_nonfinite]: 1.0})

    def n_nonfinite(self, after: int) -> int:
        """Return how many steps after one were skipped or clipped."""
        return sum(step > after and name in FAULTS.values() for step, _, name, _ in self.curve.rows)

    def validate(self, step: int, *, is_last: bool) -> dict[str, float] | None:
        """Score the objective on its held-out tasks if that is due, and remember the best weights.

        The mean scores by metric are returned, `None` if it was not due.

        Beside others that are still patient, one that is out of patience keeps the weights that it has.
        """
        is_due = self.validation is not None and (is_last or step % self.validation.every == 0)
        if self.validation is None or not is_due or self.is_out_of_patience:
            return None
        with nullcontext() if self._average is None else self._average.applied():
            return self._validated(step, self.validation)

    def _validated(self, step: int, validation: Validation) -> dict[str, float]:
        how = {name: getattr(self.objective, name) for name in ("batching", "chunk", "processes")}
        n_tasks, metrics, metric = validation.n_tasks, validation.metrics, self._primary
        assert metric is not None  # as `check_first_tasks` was called
        rows = evaluate(self.objective.learner, validation.tasks, n_tasks=n_tasks, metrics=metrics, **how)
        means = mean_scores(rows)
        self.curve.add(step, "val", means)
        mean = means[metric.name]
        if not math.isfinite(mean):
            lost = rows[(rows["metric"] == metric.name) & ~rows["value"].abs().lt(math.inf)]["task"]
            warnings.warn(
                f"{len(lost)} of {n_tasks} validation tasks have no finite {metric.name} at step {step}, "
                f"first task {lost.min()}; these weights do not count as the best.",
                stacklevel=2,
            )
        score = metric.sign * mean
        self._n_worse += 1
        if score > self._best_score:
            self._best_score, self._n_worse = score, 0
            self._best_weights = {k: v.detach().clone() for k, v in self.objective.state_dict().items()}
        return means

    def state(self) -> State:
        """Return everything that training changes."""
        return {
            "weights": self.objective.state_dict(),
            "sampler": self.sampler.state_dict(),
            "rows": self.curve.rows,
            "diverged": self.diverged,
            "best_score": self._best_score,
            "n_worse": self._n_worse,
            "n_logged": self.curve.n_logged,
            "best_weights": self._best_weights,
            "average": None if self._average is None else self._average.state(),
        }

    def load(self, state: State) -> None:
        """Restore what `state` returned."""
        if state["best_weights"] is not None:  # loaded once to find damage before the end
            self.objective.load_state_dict(state["best_weights"])
        self.objective.load_state_dict(state["weights"])
        self.sampler.load_state_dict(state["sampler"])
        self.curve.rows[:] = [tuple(row) for row in state["rows"]]
        self.diverged, self._best_score = state["diverged"], float(state["best_score"])
        self._n_worse, self._best_weights = index(state["n_worse"]), state["best_weights"]
        self.curve.n_logged = index(state["n_logged"])
        if self._average is not None:
            self._average.load(state["average"])

    def keep_best(self) -> None:
        """Return to the best weights, if there was a validation, or to the average, if there is one."""
        if self._best_weights is not None:
            self.objective.load_state_dict(self._best_weights)
        elif self._average is not None:
            self._average.apply()
