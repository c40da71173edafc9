"""Base of the estimators: training, comparison with baselines, saving."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.base import Split
from metalens.errors import MALFORMED, MetaLensError
from metalens.estimators.card import CARD, model_card
from metalens.estimators.choice import STACKED, Draw, scores_of
from metalens.estimators.compared import ComparedModels
from metalens.estimators.cross_fitting import Fold, best_steps, side_by_side
from metalens.estimators.draws import HeldOut, n_drawn, n_named, sizes_of
from metalens.estimators.importance import input_groups, permutation_effects
from metalens.estimators.rows import as_new_rows, as_new_table
from metalens.estimators.saving import (
    damaged,
    part,
    read_data_sizes,
    read_left_out,
    read_model,
    read_n_folds,
    read_pooled,
    restored_choices,
    write_model,
)
from metalens.estimators.time_limit import TimeLimit, left_out_in_words
from metalens.estimators.training import ProgressOf, TrainingTasks, train_all
from metalens.io.files import new_folder
from metalens.metrics import METRICS
from metalens.objective import Objective
from metalens.relations.relate import relate
from metalens.specs.outside import NotImportedError, named_by

if TYPE_CHECKING:
    from metalens.estimators.adapted import AdaptedModel
    from metalens.relations.clusters import RelationMap

N_EPISODES = 20  # in a map of relations


class MetaEstimator(ComparedModels):
    """Methods of both estimators.

    As in scikit-learn, `fit` checks the settings, and names that end in `_` are results of `fit`.
    """

    left_out_: dict[str, str]
    curve_: pd.DataFrame
    n_folds_: int
    data_sizes_: dict[str, dict[str, int]]
    _is_fitted: bool = False

    def __sklearn_is_fitted__(self) -> bool:
        return self._is_fitted

    @property
    def feature_names_in_(self) -> np.ndarray:
        """The columns that new rows must have; empty for images."""
        return np.array(self.reader_.input_names, dtype=object)

    @property
    def n_features_in_(self) -> int:
        """The number of `feature_names_in_`."""
        return len(self.reader_.input_names)

    def evaluate(
        self,
        data: Any,
        y: Any = None,
        groups: Any = None,
        *,
        k_shot: int | None = None,
        n_query: int | None = None,
    ) -> pd.DataFrame:
        """Score the meta-learner and the baselines on the tasks of new data.

        Rows of each task are divided at random into support and query rows, the same for all models.

        Args:
            data: of the same kind as those of `fit`; all tasks in it count as new.
            y: as in `fit`.
            groups: as in `fit`.
            k_shot: support rows of a task, or of a class; `None` for as many as in training.
            n_query: query rows; `None` for all that are left, or as in training for new classes.

        Returns:
            Rows `model, task, metric, value`.

        Raises:
            MetaLensError: the data cannot be used.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        table = as_new_table(data, y, groups, self.reader_)
        tasks, n_support, n_outputs = self._new_tasks(table, k_shot, n_query)
        candidates = self._candidates(n_outputs)
        if (adapting := self._adapting(n_support, n_outputs)).name == STACKED:
            candidates.append(adapting)
        return scores_of(self._draws(tasks, candidates, n_drawn(tasks)), self._scores)

    def score(self, data: Any, y: Any = None, groups: Any = None) -> float:
        """Return the mean score of what adapts over the tasks of new data; see `evaluate`.

        It is the one that models are chosen by, `metric_`; a loss has a minus sign, so that higher is better.
        """
        check_is_fitted(self)
        table = as_new_table(data, y, groups, self.reader_)
        tasks, n_support, n_outputs = self._new_tasks(table, None, None)
        draws = self._draws(tasks, [self._adapting(n_support, n_outputs)], n_drawn(tasks))
        rows = scores_of(draws, self._deciding_score)
        return METRICS[self.metric_].sign * float(rows.value.mean())

    def predict(self, data: Any) -> np.ndarray:
        """Return predictions for rows of a task of which none are known: the same as `adapt().predict(data)`.

        Args:
            data: rows with the columns of the inputs, or an array of these columns.

        Raises:
            MetaLensError: what adapts needs support rows, the classes of a task are new, or the rows cannot
                be used.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        return self.adapt().predict(as_new_rows(data, self.reader_))

    def permutation_importance(
        self,
        data: Any,
        *,
        models: Sequence[str] | None = None,
        k_shot: int | None = None,
        n_query: int | None = None,
        n_repeats: int = 5,
    ) -> pd.DataFrame:
        """Return how much worse predictions are if the values of an input are permuted, by task.

        Models adapt to the support of a task, and predict its queries, in which then the values of one column
        after the other are permuted.

        Args:
            data: see `evaluate`; a table.
            models: names of models in `comparison_`; `None` for what adapts.
            k_shot: see `evaluate`.
            n_query: see `evaluate`.
            n_repeats: number of permutations of each column.

        Returns:
            Rows `model, task, input, value`: the mean fall of the score by which models are chosen,
            `metric_`, or of a loss its rise. nan if a column has the same value in all queries of the task:
            its effect cannot be seen within tasks. Tasks whose queries have no such score are left out.

        Raises:
            MetaLensError: the data cannot be used, there is no such model, or these are images.
            NotFittedError: the estimator is not fitted.

        Source: L. Breiman, "Random forests", Machine Learning 45, 2001. Deviation: a score within tasks.
        """
        check_is_fitted(self)
        if unknown := [name for name in models or () if name not in self._names()]:
            raise MetaLensError(f"There is no model {unknown[0]}; choose from {', '.join(self._names())}.")
        tasks, n_support, n_outputs = self._new_tasks(data, k_shot, n_query)
        candidates = [self._candidate(name, n_outputs) for name in models or ()]
        candidates = candidates or [self._adapting(n_support, n_outputs)]
        rows = []
        for number in range(n_drawn(tasks)):
            task, name = tasks[number], tasks.task_name(number)
            for candidate in candidates:
                predict = partial(self._predict, candidate.adapt(task.support))
                draw = self._draw(name, task, {candidate.name: predict(task.query.x)})
                effects = self._effects(draw, predict, task.query.x, n_repeats, number)
                rows += [(candidate.name, name, column, values.mean()) for column, values in effects.items()]
        frame = pd.DataFrame(rows, columns=["model", "task", "input", "value"])
        return frame.groupby(["model", "task", "input"], sort=False)["value"].mean().reset_index()

    def _effects(
        self, draw: Draw, predict: Callable[[Tensor], Tensor], x: Tensor, n_repeats: int, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the effects of permuted columns on the queries of a task; none if these have no score."""
        groups = input_groups(self.reader_)
        if not self._deciding_score(draw, predict(x)):
            return {}

        def gain(predictions: Tensor) -> float:
            return METRICS[self.metric_].sign * self._deciding_score(draw, predictions)[self.metric_]

        rng = np.random.default_rng([self.random_state, seed])
        return permutation_effects(predict, gain, x, groups, n_repeats, rng)

    def relations(self, data: Any, *, n_groups: int | None = None) -> RelationMap:
        """Return relations and clusters of the tasks of new data, by the trained learner.

        Args:
            data: see `evaluate`; at least 3 tasks.
            n_groups: see `relation_map`.

        Raises:
            MetaLensError: the data cannot be used, or the learner has no vectors of tasks.
            NotFittedError: the estimator is not fitted.
        """
        from metalens.relations.clusters import relation_map  # slow to import

        check_is_fitted(self)
        tasks, *_ = self._new_tasks(data, None, None)
        objective, *_ = next(iter(self._trained.values()))  # the meta-learner of the first seed
        found = relate(objective.learner, objective.relation, tasks, n_named(tasks) or N_EPISODES)
        return relation_map(found.matrix, found.names, n_groups)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the trained estimator into a new folder, atomically.

        The folder holds `model.json` with settings, columns and scales, `weights.safetensors`,
        `comparison.csv`, `curve.csv` and `README.md`, the card of the model: no training data but the inputs
        that a `MultiTaskGP` compares new ones with, and no code that runs on loading.

        Args:
            folder: path of the new folder.
            overwrite: replace an existing model.

        Raises:
            MetaLensError: the folder exists and may not be replaced, or cannot be written.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        with new_folder(Path(folder), overwrite=overwrite) as path:
            self.write_into(path)

    def write_into(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder."""
        check_is_fitted(self)
        tensors: dict[str, Tensor] = {}
        for prefix, objective in self._objectives():
            tensors |= {prefix + name: tensor for name, tensor in objective.state_dict().items()}
        facts = {
            "kind": type(self).__name__,
            "metalens": version("metalens"),
            "settings": self.get_params(),
            "trained": list(self._trained),
            "left_out": self.left_out_,
            "n_folds": self.n_folds_,
            "data_sizes": self.data_sizes_,
            "pooled": self.pooled_.to_dict("records"),
            "choices": [{"k_shot": k, **choice.facts()} for k, choice in self._choices.items()],
        } | self._state()
        for k, choice in self._choices.items():
            tensors |= {f"residuals.{k}.{name}": tensor for name, tensor in choice.tensors().items()}
        write_model(folder, facts, tensors, {"comparison": self.comparison_, "curve": self.curve_})
        (folder / CARD).write_text(model_card(self), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Return an estimator that `save` wrote, on the CPU.

        Raises:
            MetaLensError: the folder is missing, damaged, or of another estimator.
        """
        folder = Path(folder)
        saved = read_model(folder, cls.__name__)
        try:
            with named_by(folder):
                given = saved.facts["settings"].items()  # JSON has no tuples
                settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
                model = cls(**settings)
                model._restore(saved.facts)
                model._choices, model.left_out_ = restored_choices(saved), read_left_out(saved.facts)
                model.pooled_, model.n_folds_ = read_pooled(saved.facts), read_n_folds(saved.facts)
                model.data_sizes_ = read_data_sizes(saved.facts)
                model.metric_ = model._choices[model.k_shot_].metric
                trainees = model._trainees()
                model._trained = {name: trainees[name].build() for name in saved.facts["trained"]}
                for prefix, objective in model._objectives():
                    objective.load_state_dict(part(saved.tensors, prefix))
                for choice in model._choices.values():
                    named = {*choice.weights, *([choice.scale.model] if choice.scale.model else [])}
                    if not choice.weights or not named <= set(model._names()):
                        raise ValueError(f"there is no model {', '.join(choice.weights)}")
        except NotImportedError:
            raise
        except MALFORMED as error:
            raise damaged(folder, error) from error
        model.comparison_, model.curve_ = saved.tables["comparison"], saved.tables["curve"]
        model._is_fitted = True
        return model

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return the plain values that training found."""

    @abstractmethod
    def _restore(self, facts: dict[str, Any]) -> None:
        """Restore what `_state` returned."""

    @abstractmethod
    def _new_tasks(
        self, data: Any, k_shot: int | None, n_query: int | None
    ) -> tuple[TaskDistribution, int, int]:
        """Return all tasks of new data as held-out tasks, their support rows, and their number of outputs."""

    @abstractmethod
    def adapt(self, support: Any = None, y: Any = None) -> AdaptedModel:
        """Return the model of one new task, adapted to its rows."""

    @abstractmethod
    def _adapted(self, x: Tensor, targets: pd.Series, task: str | None) -> AdaptedModel:
        """Return the model adapted to inputs and their targets, in their own units, or classes."""

    def _reset(self) -> None:
        """Check the settings before a fit, and forget an earlier one."""
        self._is_fitted, self._choices = False, {}
        self.check_settings()
        self.metric_ = self.metric or self.metrics[0]

    def _finish(
        self,
        tasks: Mapping[Split, TaskDistribution],
        folds: Sequence[Fold],
        n_outputs: int,
        progress: ProgressOf | None,
        limit: TimeLimit,
    ) -> None:
        """Train, compare on the held-out tasks, and choose, also for other numbers of support rows."""
        limit.begin()
        self.n_folds_, self.data_sizes_ = len(folds), sizes_of(tasks)
        with self._machine.set_threads():
            if folds:
                parts = self._train_on_folds(tasks["train"], folds, n_outputs, progress, limit)
            else:
                learned = TrainingTasks(tasks["train"], tasks["train"], tasks["val"])
                ((self._trained, self.curve_),) = self._train([learned], progress, limit)
                candidates = self._candidates(n_outputs)
                splits: tuple[Split, ...] = ("val", "test")
                parts = [HeldOut(self, candidates, split, tasks[split]) for split in splits]
            self._compare(parts, limit)
        self.left_out_ = limit.cut
        if limit.cut:
            warnings.warn(left_out_in_words(limit.cut), stacklevel=3)
        self._is_fitted = True

    def _train(
        self,
        tasks: Sequence[TrainingTasks],
        progress: ProgressOf | None,
        limit: TimeLimit,
        lasts: Mapping[str, int] | None = None,
    ) -> list[tuple[dict[str, list[Objective]], pd.DataFrame]]:
        """Return what `train_all` does."""
        settings: Any = {name: getattr(self, name) for name in ("steps", "meta_batch_size", "outer_lr")}
        return train_all(self._trainees(), tasks, self.patience, progress, limit, lasts, **settings)

    def _train_on_folds(
        self,
        tasks: TaskDistribution,
        folds: Sequence[Fold],
        n_outputs: int,
        progress: ProgressOf | None,
        limit: TimeLimit,
    ) -> list[HeldOut]:
        """Train on all tasks, and for each fold on the others; return the fold with these models."""
        twins = [copy(self) for _ in folds]
        for twin, fold in zip(twins, folds, strict=True):
            twin.reader_ = fold.reader
        of_fold = progress and (lambda name: progress(f"{name} in folds"))
        for group in side_by_side(folds):
            learned = [folds[number].tasks for number in group]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the training on all tasks says it
                found = twins[group[0]]._train(learned, of_fold, limit)
            for number, (trained, curve) in zip(group, found, strict=True):
                twins[number]._trained, twins[number].curve_ = trained, curve.assign(fold=number)
        self.curve_ = pd.concat([twin.curve_ for twin in twins], ignore_index=True)
        learned, lasts = TrainingTasks(tasks, tasks, None), best_steps(self.curve_)
        ((self._trained, _),) = self._train([learned], progress, limit, lasts)
        for name in [n for n in self._trained if any(n not in twin._trained for twin in twins)]:
            warnings.warn(f"The baseline {name} is left out: its training diverged in folds.", stacklevel=4)
            del self._trained[name]
        names = self._names()
        return [
            HeldOut(twin, [twin._candidate(name, n_outputs) for name in names], "test", fold.held_out)
            for twin, fold in zip(twins, folds, strict=True)
        ]
