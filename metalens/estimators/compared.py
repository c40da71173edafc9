"""Comparison of the models of an estimator on held-out tasks, and the choice among them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.tables.drawing import MIN_QUERY
from metalens.estimators.candidates import ChosenModels
from metalens.estimators.choice import Choice, Draw, Score, choose, warn_of_baseline
from metalens.estimators.draws import HeldOut, numbers_of_draws, with_other_shots
from metalens.estimators.held_out import predictions_of
from metalens.estimators.models import Candidate, Ensemble
from metalens.estimators.time_limit import COMPARE, Pace, TimeLimit
from metalens.metrics import METRICS
from metalens.tasks import Task


class ComparedModels(ChosenModels):
    """The models of an estimator, and how well they predict held-out tasks."""

    metric_: str
    comparison_: pd.DataFrame
    pooled_: pd.DataFrame
    predictions_: pd.DataFrame

    @abstractmethod
    def _predict(self, models: Ensemble, x: Tensor) -> Tensor:
        """Return predictions for inputs: targets in their own units, or probabilities of classes."""

    def _deviation(self, models: Ensemble, x: Tensor) -> Tensor | None:
        """Return predicted standard deviations of targets in their own units, `(n,)`; none of classes."""
        return None

    @abstractmethod
    def _in_units(self, y: Tensor) -> Tensor:
        """Return targets of the models in their own units; class indices as they are."""

    @abstractmethod
    def _targets(self, y: Tensor, predictions: Tensor) -> Tensor:
        """Return what the predictions should be, in their shape and units."""

    @abstractmethod
    def _rows(self, draw: Draw, predictions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return true values and predictions of queries, `(q,)`: targets, or 0 and 1 and probabilities."""

    def _pooled(self, draws: Sequence[Draw]) -> pd.DataFrame:
        """Return the scores of all rows of all tasks together; none of classes."""
        return pd.DataFrame(columns=["model", "metric", "value"])

    @abstractmethod
    def _reported(self, draw: Draw) -> Sequence[str]:
        """Return the names of the scores that are reported beside the deciding one."""

    def _scores(self, draw: Draw, predictions: Tensor) -> dict[str, float]:
        """Return the scores of predictions on a task by name, the deciding one first."""
        return self._scores_by(draw, predictions, [self.metric_, *self._reported(draw)])

    def _deciding_score(self, draw: Draw, predictions: Tensor) -> dict[str, float]:
        return self._scores_by(draw, predictions, [self.metric_])

    @abstractmethod
    def _scores_by(self, draw: Draw, predictions: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return scores of predictions on a task; without those that the task has no classes for."""

    def _compare(self, parts: Sequence[HeldOut], limit: TimeLimit) -> None:
        """Compare candidates on held-out tasks, and choose for each number of support rows."""
        candidates = parts[0].candidates
        pace = limit.pace(self._names(), sum(numbers_of_draws(parts)), COMPARE)
        self.comparison_, choice, draws = self._choose(parts, self._names(), self._scores, pace)
        self.predictions_ = predictions_of(draws, choice.model, self._rows)
        self.pooled_ = self._pooled(draws)
        warn_of_baseline(choice, fallback=self.fallback)
        self._choices = {self.k_shot_: choice}
        kept = [c for c in candidates if c.name in choice.weights or c.name in self._trained]
        kept = [c for c in kept if c.name in pace.kept]
        late = []
        for k_shot, sized in with_other_shots(parts, self.k_shot_):
            able = [candidate.name for candidate in kept if candidate.min_support <= k_shot]
            n_query = min(getattr(part.tasks, "n_query", None) or MIN_QUERY for part in sized)
            if not METRICS[self.metric_].is_defined(n_query, k_shot):
                continue
            if not pace.fits(able, sum(numbers_of_draws(sized))):
                late.append(str(k_shot))
            elif able:
                self._choices[k_shot] = self._choose(sized, able, self._deciding_score)[1]
        if late:
            limit.cut[f"choices for {', '.join(late)} support rows"] = "not made"

    def _choose(
        self, parts: Sequence[HeldOut], names: Sequence[str], score: Score, pace: Pace | None = None
    ) -> tuple[pd.DataFrame, Choice, list[Draw]]:
        """Return the scores of candidates on the test tasks, what adapts, and the draws; see `choose`."""
        draws: dict[str, list[Draw]] = {"val": [], "test": []}
        for part, n_draws in zip(parts, numbers_of_draws(parts), strict=True):
            candidates = [candidate for candidate in part.candidates if candidate.name in names]
            draws[part.split] += part.estimator._draws(part.tasks, candidates, n_draws, pace, deviations=True)
        if pace is not None:
            draws = {split: [draw.of(pace.kept) for draw in of_split] for split, of_split in draws.items()}
        return choose(draws, score, self.metric_, fallback=self.fallback)

    def _draws(
        self,
        tasks: TaskDistribution,
        candidates: Sequence[Candidate],
        n: int,
        pace: Pace | None = None,
        *,
        deviations: bool = False,
    ) -> Iterator[Draw]:
        """Adapt every candidate to the same n support sets, and predict the same queries.

        With `deviations` models also predict these, which only the choice asks for.
        """
        for number in range(n):
            task = tasks[number]
            able = candidates if pace is None else pace.candidates(candidates)
            models = {candidate.name: candidate.adapt(task.support) for candidate in able}
            predictions = {name: self._predict(of_task, task.query.x) for name, of_task in models.items()}
            draw = self._draw(tasks.task_name(number), task, predictions)
            if deviations:
                found = {name: self._deviation(of_task, task.query.x) for name, of_task in models.items()}
                kept = {name: values for name, values in found.items() if values is not None}
                draw = draw._replace(deviations=kept)
            yield draw

    def _draw(self, name: str, task: Task, predictions: dict[str, Tensor]) -> Draw:
        """Return what models predict for the queries of a task."""
        targets = self._targets(task.query.y, next(iter(predictions.values())))
        return Draw(name, task.query.y, self._in_units(task.support.y), predictions, targets)
