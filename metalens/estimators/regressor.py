"""Regression in your own tasks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.splits import SHARES
from metalens.data.tables.cells import numbers
from metalens.data.tables.columns import ColumnOptions, Columns
from metalens.data.tables.division import Division
from metalens.data.tables.drawing import MIN_QUERY
from metalens.data.tables.reading import naming_file
from metalens.errors import MetaLensError
from metalens.estimators.adapted import AdaptedModel
from metalens.estimators.base import MetaEstimator
from metalens.estimators.choice import Draw
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.cross_fitting import divide_table
from metalens.estimators.held_out import pooled_scores
from metalens.estimators.models import Ensemble
from metalens.estimators.rows import as_new_table, as_table, check_options
from metalens.estimators.tables import TableReader
from metalens.estimators.time_limit import TimeLimit
from metalens.estimators.training import ProgressOf
from metalens.io.json import is_of
from metalens.metrics import METRICS, task_metrics
from metalens.networks import Network, mlp
from metalens.tasks import Examples

if TYPE_CHECKING:
    from metalens.data.tables.columns import Table

_USUAL = (
    "R2D2(prior_mean=True)", "Shrunken", "ResidualGP", "MultiTaskGP", "ProfileRidge", "JointModel",
    "MeanPredictor", "Ridge", "GaussianProcess",
)  # fmt: skip


class MetaRegressor(MetaEstimator):
    """Learn from many small tasks to predict numbers in a new task, from few of its rows.

    `fit` divides the tasks of a table into three parts. It trains a learner on the first, with early stopping
    on the second. On the second and the third, the held-out tasks, it compares the learner with others: those
    that pool tasks in part (`MixedModel`; `R2D2` with a learned prior; `Shrunken` and `ResidualGP`, which
    correct boosted trees of all tasks by a task's residuals; `MultiTaskGP`), `ProfileRidge`, a ridge
    regression on the predictions of the training tasks' models, `JointModel`, one network for all tasks, and
    models of a single task (mean, ridge regression, Gaussian process). What has the best mean `r2` adapts to
    new tasks (`chosen_`): the learner, one of the others if it is better by more than chance explains, with a
    warning, or the mean of all with weights that are fitted to the held-out tasks (`"Stacked"`). `r2` gives
    tasks of all spreads equal weight, unlike squared errors. The comparison also has `rmse` and `pearson_r2`,
    the squared correlation, which ignores a wrong offset, scale or sign. `rmse`
    decides where tasks have two rows in all, and `pearson_r2` is left out where they have two query rows.

    With 10 to 59 tasks, each is held out once, in 5 folds: the models that predict it learned from the other
    folds, all tasks are the held-out ones, and what adapts is trained once more on all. With `splits`,
    `families`, `smiles` or `time_limit` there are no folds.

    The choice is made for `k_shot_` support rows, and also for 0, 1, 3, 5, 10 and 20, where tasks have as
    many: a new task may have any number of rows, and none at first.

    Settings of both estimators: see `EstimatorSettings`. The default learner is R2D2, a ridge
    regression on learned features, and DeepKernelGP for molecules: both are fast, take any number of rows and
    need no inner step size. By default `k_shot` is half of the rows that nine in ten tasks have, at
    most 16, and `n_query` the rest, at most three times as many.

    Attributes:
        chosen_: name of what adapts to `k_shot_` support rows.
        weights_: of the models in the mean that adapts, by the number of support rows.
        comparison_: scores on the third part, or on all folds: rows `model, task, metric, value`, the
            meta-learner first; `rmse` in units of the target.
        pooled_: `r2` and `rmse` of all rows of the third part together: rows `model, metric, value`; here
            `r2` counts also that a model tells tasks apart.
        predictions_: what adapts predicts for the queries of the third part: rows `task, true, predicted`.
            `save` does not write it.
        curve_: learning curves: rows `model, seed, step, split, metric, value`, in standardized units; with
            folds also `fold`.
        n_folds_: in which each task was held out once; 0 without folds.
        k_shot_: support rows of a training task.
        left_out_: what was left out or cut short to keep to `time_limit`, and how.
        reader_: the encoding of rows, fitted to the training tasks.
        feature_names_in_: columns that new rows must have.

    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame({"sensor": np.repeat(np.arange(20), 8), "voltage": rng.random(160)})
    >>> table["pressure"] = table.voltage * (1 + table.sensor % 3) + 100
    >>> model = MetaRegressor(steps=2, hidden=[8], baselines=["Ridge"], fallback=False)
    >>> import warnings
    >>> with warnings.catch_warnings():  # two steps are too few, and a warning says so
    ...     warnings.simplefilter("ignore")
    ...     _ = model.fit(table, task="sensor", target="pressure")
    >>> sensor = model.adapt(pd.DataFrame({"voltage": [0.1, 0.9], "pressure": [100.1, 100.9]}))
    >>> sensor.predict(pd.DataFrame({"voltage": [0.2, 0.5, 0.7]})).shape
    (3,)
    >>> sensor.update(pd.DataFrame({"voltage": [0.5], "pressure": [100.5]})).n_support
    3
    >>> model.permutation_importance(table[:40], models=["Ridge"]).columns.tolist()
    ['model', 'task', 'input', 'value']
    """

    metrics: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mse", "pearson_r2")
    kind = "regressor"
    reader_: TableReader

    def fit(
        self,
        data: Any,
        y: Any = None,
        groups: Any = None,
        *,
        task: str | None = None,
        target: str | None = None,
        splits: str | Sequence[float] = SHARES,
        split_seed: int | None = None,
        families: str | None = None,
        time_limit: float | None = None,
        progress: ProgressOf | None = None,
        **columns: Unpack[ColumnOptions],
    ) -> Self:
        """Train on the tasks of a table.

        Args:
            data: a data frame, the path of a CSV or Parquet file, or arrays by name: an array `x` of shape
                `(n, d)` is d columns, `x 0`, `x 1` and so on.
            y: targets, `(n,)`, if `data` holds only the inputs, as in scikit-learn: a data frame, or an array
                `(n, d)`.
            groups: the task of each row, `(n,)`, beside `y`; or `task` names a column of `data`.
            task: the column that names the task of a row; not given for a table with a column for each task,
                see `wide` of `Columns`.
            target: the column of numbers to predict; the same.
            splits: shares of tasks for training, validation and comparison, which are divided by the hashes
                of their names, or into folds if they are few; or a column with train, val or test.
            split_seed: selects another division by shares, or into folds.
            families: a column with the family of a task, such as the study of an assay: tasks of one family
                are in one part.
            time_limit: seconds that the fit may take, about; `None` for no limit. Trainings end early, with
                the best weights so far, and slow models are left out, as a warning and `left_out_` say;
                there are no folds.
            progress: called with the name of a model before its training, such as `"R2D2 in folds"`; the
                returned function is called with the number and the loss of every step.
            columns: `wide`, `inputs`, `exclude`, `smiles`, `missing` and others, see `Columns`.

        Returns:
            The estimator itself.

        Raises:
            MetaLensError: the table cannot be used (names the row and the column), there are too few tasks or
                rows, or a setting is out of range.
            ValueError: of scikit-learn, if `y` or an array has another shape, or holds nan or infinity.
        """
        limit = TimeLimit(time_limit)
        self._reset()
        check_options(self, columns)
        data, target, task = as_table(data, y, groups, target, task, **columns)
        if y is not None and task is None:
            raise MetaLensError("groups must name the task of each row, or task a column of them; got none.")
        roles = Columns(task=task, target=target or "", **columns)
        division = Division(splits=splits, split_seed=split_seed, families=families)
        roles.refuse_for_wide(division.task_columns)
        with naming_file(data):
            self.reader_, tasks, folds = divide_table(
                roles, roles.read(data), division, may_fold=limit.seconds is None, k_shot=self.k_shot,
                n_query=self.n_query, seed=self.random_state, classes=False,
            )  # fmt: skip
        self.k_shot_ = tasks["train"].k_shot
        self._check_sizes(self.k_shot_, tasks["train"].n_query or MIN_QUERY)
        self._finish(tasks, folds, 1, progress, limit)
        return self

    def adapt(self, support: Any = None, y: Any = None) -> AdaptedRegressor:
        """Return the model of one new task, adapted to its rows.

        Args:
            support: rows of one task with their targets; `None` before there are any.
            y: their targets, if `support` holds only the inputs.

        Raises:
            MetaLensError: a column is missing, a cell is invalid, rows are of several tasks, or no model
                adapts to so few.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        if support is None:
            return self._adapted(
                torch.zeros(0, len(self.reader_.encoding.names)), pd.Series(dtype=float), None
            )
        return self._adapted(*self.reader_.support(as_new_table(support, y, None, self.reader_)))

    def _adapted(self, x: Tensor, targets: pd.Series, task: str | None) -> AdaptedRegressor:
        """Return the model adapted to inputs and their targets."""
        candidate = self._adapting(len(x), 1)
        models = candidate.adapt(self._support(x, targets))
        return AdaptedRegressor(
            estimator=self, model=candidate.name, task=task, _x=x, _targets=targets, _models=models
        )

    def _support(self, x: Tensor, targets: pd.Series) -> Examples:
        return Examples(x.float(), torch.from_numpy(self.reader_.standardized(targets)))

    def _check_sizes(self, k_shot: int, n_query: int) -> None:
        """Refuse or replace scores that say nothing about tasks of this size."""
        lost = [name for name in self.metrics if not METRICS[name].is_defined(n_query, k_shot)]
        if not lost:
            return
        size = f"k_shot={k_shot} support and n_query={n_query} query rows of a task"
        if self.metric in lost:
            raise MetaLensError(
                f"metric={self.metric!r} says nothing with {size}; give tasks more rows, set n_query, or use "
                "metric='rmse'."
            )
        if self.metric_ in lost:
            self.metric_ = "rmse"
        names = f"{' and '.join(lost)} say{'s' * (len(lost) == 1)} nothing with {size}"
        warnings.warn(f"{names}, so models are compared without; {self.metric_} decides.", stacklevel=3)

    def _new_tasks(
        self, data: Table, k_shot: int | None, n_query: int | None
    ) -> tuple[TaskDistribution, int, int]:
        k_shot = self.k_shot_ if k_shot is None else k_shot
        return self.reader_.tasks(data, k_shot, n_query, self.random_state), k_shot, 1

    def _predict(self, models: Ensemble, x: Tensor) -> Tensor:
        return self.reader_.in_units(models(x))

    def _deviation(self, models: Ensemble, x: Tensor) -> Tensor | None:
        found = models.deviation(x)
        return None if found is None else self.reader_.deviation * found

    def _in_units(self, y: Tensor) -> Tensor:
        return self.reader_.in_units(y.double())

    def _targets(self, y: Tensor, predictions: Tensor) -> Tensor:
        return self._in_units(y)

    def _rows(self, draw: Draw, predictions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return draw.targets.flatten().numpy(), predictions.flatten().numpy()

    def _pooled(self, draws: Sequence[Draw]) -> pd.DataFrame:
        return pooled_scores(draws, self._rows)

    def _reported(self, draw: Draw) -> Sequence[str]:
        return "r2", "pearson_r2", "rmse"

    def _scores_by(self, draw: Draw, predictions: Tensor, names: Sequence[str]) -> dict[str, float]:
        scores = task_metrics(predictions[None], draw.targets[None], draw.known[None], names)
        return {name: scores[name].item() for name in names if name in scores}

    def _state(self) -> dict[str, Any]:
        return {"reader": asdict(self.reader_), "k_shot": self.k_shot_}

    def _restore(self, facts: dict[str, Any]) -> None:
        if not is_of(facts, {"k_shot": int}):
            raise ValueError("its sizes are not as expected")
        self.reader_ = TableReader.from_json(facts["reader"])
        self.k_shot_ = facts["k_shot"]

    def _learner(self) -> str:
        return self.learner or ("DeepKernelGP" if self._has_molecules else "R2D2")

    def _usual_baselines(self) -> Sequence[str]:
        return _USUAL if self._has_molecules else ("MixedModel", *_USUAL)

    def _network(self) -> Network:
        return mlp(len(self.reader_.encoding.names), 1, self.hidden)


def _of_rows(usable: np.ndarray, values: Callable[[], Tensor]) -> np.ndarray:
    """Return values of the rows that can be used, and nan of the others, `(n,)`."""
    found = np.full(len(usable), np.nan)
    if usable.any():
        found[usable] = values().numpy().ravel()
    return found


class AdaptedRegressor(AdaptedModel):
    """A model of one task, adapted to its support rows."""

    estimator_class = MetaRegressor

    def predict(self, data: Table) -> np.ndarray:
        """Return predicted targets in their own units, `(n,)`; nan for rows left out by `missing="drop"`.

        Args:
            data: rows of the task with the columns of the inputs, or an array of these columns.

        Raises:
            MetaLensError: a column is missing, or a cell is invalid.
        """
        x, usable = self.estimator.reader_.inputs(data)
        return _of_rows(usable, lambda: self.estimator._predict(self._models, x))

    def predict_interval(self, data: Table, coverage: float = 0.9) -> np.ndarray:
        """Return the limits of prediction intervals, `(n, 2)`, in units of the target.

        The half width is `conformal_radius` of the residuals on the held-out tasks with as many support rows,
        or the next lower number of `weights_`: a target of a new task is inside with at least the given
        probability, if new tasks are like the held-out ones, on average over tasks. Where one of the models
        predicts how large errors are, and intervals are narrower by it on the held-out tasks, residuals and
        half widths are in units of its predicted deviations, which differ between tasks and points; see
        `choose_scale`.

        Args:
            data: see `predict`.
            coverage: the probability.

        Raises:
            MetaLensError: coverage is out of range or too high for the number of held-out tasks, there was
                none with so few support rows, or the rows cannot be used.
        """
        choice = self.estimator._choice(self.n_support)
        if choice is None:
            least = min(self.estimator.weights_)
            raise MetaLensError(
                f"Intervals were calibrated with k_shot={least} support rows, and this task has "
                f"{self.n_support}; give {least}, or fit with k_shot={self.n_support}."
            )
        if not choice.residuals:
            raise MetaLensError(f"{self.model} was not chosen by fit, so its intervals are not calibrated.")
        half: Any = conformal_radius(choice.residuals, coverage)
        x, usable = self.estimator.reader_.inputs(data)
        center = _of_rows(usable, lambda: self.estimator._predict(self._models, x))
        if choice.scale.model is not None:
            support = self.estimator._support(self._x, self._targets)
            scale = self.estimator._candidate(choice.scale.model, 1).adapt(support)
            half = half * _of_rows(usable, lambda: self.estimator._deviation(scale, x))
        return np.stack([center - half, center + half], axis=1)

    def _draw(self, x: Tensor, targets: pd.Series) -> Draw:
        reader, in_units = self.estimator.reader_, self.estimator._in_units
        y, known = (torch.from_numpy(reader.standardized(column)) for column in (targets, self._targets))
        return Draw("", y, in_units(known), {}, in_units(y))

    def _as_tensor(self) -> Tensor:
        return torch.tensor(numbers(self._targets))

    @staticmethod
    def _from_tensor(y: Tensor, classes: list[Any]) -> pd.Series:
        return pd.Series(y.numpy())
