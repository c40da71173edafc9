"""Regression in your own tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.splits import SHARES
from metalens.data.tables.columns import ColumnOptions, Columns
from metalens.data.tables.reading import naming_file
from metalens.errors import MetaLensError
from metalens.estimators.base import MetaEstimator
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.models import Answer, Ensemble
from metalens.estimators.saving import Saved
from metalens.estimators.tables import TableReader, fit_reader
from metalens.estimators.training import ProgressOf
from metalens.io.json import is_of
from metalens.metrics import task_metrics
from metalens.networks import Network, mlp
from metalens.tasks import Examples

if TYPE_CHECKING:
    from metalens.data.tables.columns import Table


class MetaRegressor(MetaEstimator):
    """Learn from many small tasks to predict numbers in a new task, from few of its rows.

    `fit` divides the tasks of a table into three parts. It trains a learner on the first, with early stopping
    on the second. On the third, the held-out tasks, it compares the learner with baselines: `ProfileRidge`, a
    ridge regression on the predictions of the training tasks' models; `JointModel`, one network for all
    tasks; and, fitted to the support of each task, mean, ridge regression, nearest neighbors, random forest
    and Gaussian process. The model with the best mean `r2` adapts to new tasks (`chosen_`), with a warning if
    it is a baseline. `r2` gives tasks of all spreads equal weight, unlike squared errors. The comparison also
    has `rmse` and `pearson_r2`, the squared correlation, which ignores a wrong offset, scale or sign.

    Settings of both estimators: see `MetaEstimator`. The default learner is R2D2, a ridge regression on
    learned features: it is fast, takes any number of rows and needs no inner step size. By default `k_shot`
    is half of the rows that nine in ten tasks have, at most 16, and `n_query` the rest, at most three times
    as many.

    Attributes:
        chosen_: name of the model that adapts to new tasks.
        comparison_: scores on the held-out tasks: rows `model, task, metric, value`, the meta-learner first;
            `rmse` in units of the target.
        curve_: learning curves: rows `model, seed, step, split, metric, value`, in standardized units.
        k_shot_: support rows of a training task.
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
    """

    score_metric: ClassVar[str] = "r2"
    k_shot_: int
    reader_: TableReader

    def fit(
        self,
        data: Table,
        *,
        task: str,
        target: str,
        splits: str | Sequence[float] = SHARES,
        progress: ProgressOf | None = None,
        **columns: Unpack[ColumnOptions],
    ) -> Self:
        """Train on the tasks of a table.

        Args:
            data: a data frame, the path of a CSV or Parquet file, or arrays by name: an array `x` of shape
                `(n, d)` is d columns, `x 0`, `x 1` and so on.
            task: the column that names the task of a row.
            target: the column of numbers to predict.
            splits: shares of tasks for training, validation and comparison, which are divided by the hashes
                of their names; or a column with train, val or test.
            progress: called with the name of a model before its training; the returned function is called
                with the number and the loss of every step.
            columns: `inputs`, `categorical`, `smiles`, `missing`, `group`, `duplicates`, see `Columns`.

        Returns:
            The estimator itself.

        Raises:
            MetaLensError: the table cannot be used (names the row and the column), there are too few tasks or
                rows, or a setting is out of range.
        """
        self._check()
        roles = Columns(task=task, target=target, **columns)
        with naming_file(data):
            self.reader_, tasks = fit_reader(
                roles, roles.read(data), splits, k_shot=self.k_shot, n_query=self.n_query,
                seed=self.random_state, classes=False,
            )  # fmt: skip
        self.k_shot_ = tasks["train"].k_shot
        self._residuals = self._residuals_of(self._finish(tasks, 1, progress))
        return self

    def adapt(self, support: Table) -> AdaptedRegressor:
        """Return the model of one new task, adapted to its rows.

        Args:
            support: rows of one task with their targets, at least one.

        Raises:
            MetaLensError: a column is missing, a cell is invalid, or rows are of several tasks.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        x, target = self.reader_.support(support)
        y = torch.from_numpy(self.reader_.standardized(target))
        return AdaptedRegressor(self, len(x), self._candidate(self.chosen_, 1).adapt(Examples(x.float(), y)))

    def _new_tasks(
        self, data: Table, k_shot: int | None, n_query: int | None
    ) -> tuple[TaskDistribution, int]:
        k_shot = self.k_shot_ if k_shot is None else k_shot
        return self.reader_.tasks(data, k_shot, n_query, self.random_state), 1

    def _predict(self, models: Ensemble, x: Tensor) -> Tensor:
        return self.reader_.in_units(models(x))

    def _scores(self, answer: Answer) -> dict[str, float]:
        y, known = (self.reader_.in_units(targets.double())[None] for targets in (answer.y, answer.known))
        names = ("r2", "pearson_r2", "rmse")
        scores = task_metrics(answer.predictions[None], y, known, names)
        return {name: scores[name].item() for name in names}

    def _residuals_of(self, answers: Sequence[Answer]) -> list[np.ndarray]:
        """Return the absolute query residuals of every task."""
        residuals = defaultdict(list)
        for answer in answers:
            residual = answer.predictions - self.reader_.in_units(answer.y.double())
            residuals[answer.task].append(residual.abs().flatten().numpy())
        return [np.concatenate(of_task) for of_task in residuals.values()]

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        facts = {"reader": asdict(self.reader_), "k_shot": self.k_shot_, "chosen": self.chosen_}
        residuals = torch.from_numpy(np.concatenate(self._residuals))
        sizes = torch.tensor([len(of_task) for of_task in self._residuals])
        return facts, {"residuals": residuals, "residuals.sizes": sizes}

    def _restore(self, saved: Saved) -> None:
        facts, tensors = saved.facts, saved.tensors
        if not is_of(facts, {"k_shot": int, "chosen": str}):
            raise ValueError("its sizes are not as expected")
        self.reader_ = TableReader.from_json(facts["reader"])
        self.k_shot_, self.chosen_ = facts["k_shot"], facts["chosen"]
        parts = tensors["residuals"].split(tensors["residuals.sizes"].tolist())
        self._residuals = [part.numpy() for part in parts]

    def _learner(self) -> str:
        return self.learner or "R2D2"

    def _usual_baselines(self) -> Sequence[str]:
        return (
            "ProfileRidge",
            "JointModel",
            "MeanPredictor",
            "Ridge",
            "KNN",
            "RandomForest",
            "GaussianProcess",
        )

    def _network(self) -> Network:
        return mlp(len(self.reader_.encoding.names), 1, self.hidden)


@dataclass(frozen=True, eq=False)
class AdaptedRegressor:
    """A model of one task, adapted to its support rows.

    Attributes:
        estimator: its fitted estimator.
        n_support: number of support rows.
    """

    estimator: MetaRegressor
    n_support: int
    _models: Ensemble

    def predict(self, data: Table) -> np.ndarray:
        """Return predicted targets in their own units, `(n,)`; nan for rows left out by `missing="drop"`.

        Args:
            data: rows of the task with the columns of the inputs, or an array of these columns.

        Raises:
            MetaLensError: a column is missing, or a cell is invalid.
        """
        reader = self.estimator.reader_
        x, usable = reader.inputs(data)
        predicted = np.full(len(usable), np.nan)
        if usable.any():
            predicted[usable] = reader.in_units(self._models(x)).numpy().ravel()
        return predicted

    def predict_interval(self, data: Table, coverage: float = 0.9) -> np.ndarray:
        """Return the limits of prediction intervals, `(n, 2)`, in units of the target.

        The half width is `conformal_radius` of the residuals on the held-out tasks: a target of a new task is
        inside with at least the given probability, if new tasks are like the held-out ones and their support
        has `k_shot_` rows, on average over tasks. With more support rows the intervals are wider than needed;
        if a baseline was chosen on the same held-out tasks, the probability is slightly less.

        Args:
            data: see `predict`.
            coverage: the probability.

        Raises:
            MetaLensError: coverage is out of range or too high for the number of held-out tasks, the support
                had fewer than `k_shot_` rows, or the rows cannot be used.
        """
        k_shot = self.estimator.k_shot_
        if self.n_support < k_shot:
            raise MetaLensError(
                f"Intervals were calibrated with k_shot={k_shot} support rows, and this task has "
                f"{self.n_support}; give {k_shot}, or fit with k_shot={self.n_support}."
            )
        radius = conformal_radius(self.estimator._residuals, coverage)
        center = self.predict(data)
        return np.stack([center - radius, center + radius], axis=1)
