"""Regression on people's own tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metalens.distributions import TableTasks
from metalens.distributions.tables.inputs import Missing
from metalens.distributions.tables.table import Duplicates
from metalens.errors import MetaLensError
from metalens.estimators.base import MetaEstimator
from metalens.estimators.candidates import Candidate, Ensemble
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.saving import Saved
from metalens.estimators.tables import Columns, TableReader
from metalens.evaluation import task_metrics
from metalens.networks import Network, mlp
from metalens.outer_loop import Progress
from metalens.tasks import Examples, Task

if TYPE_CHECKING:
    import pandas as pd

    from metalens.estimators.tables import Table


class MetaRegressor(MetaEstimator):
    """Learn from many small tasks how to learn a new one from few rows: predict real numbers.

    TABLE
    """

    classical: ClassVar[tuple[str, ...]] = ("Mean", "Ridge", "RandomForest", "GaussianProcess")

    def fit(
        self,
        data: Table,
        *,
        task: str,
        target: str,
        inputs: Sequence[str] | None = None,
        categorical: Sequence[str] = (),
        smiles: str | None = None,
        missing: Missing = "refuse",
        group: str | None = None,
        duplicates: Duplicates = "together",
        splits: str | Sequence[float] = (0.7, 0.15, 0.15),
        progress: Progress | None = None,
    ) -> Self:
        columns = Columns(
            task=task, target=target, inputs=inputs, categorical=categorical, smiles=smiles, missing=missing,
            group=group, duplicates=duplicates,
        )  # fmt: skip
        frame = columns.read(data)
        self.k_shot_, n_query = columns.sizes(frame, self.k_shot, self.n_query)
        train, val, test = (
            TableTasks(
                frame, split, kind="regression", splits=splits, k_shot=self.k_shot_, n_query=n_query,
                seed=self.random_state, **columns.settings(),
            )
            for split in ("train", "val", "test")
        )  # fmt: skip
        self._reader = TableReader.of_tasks(columns, train)
        self._input_shape, self._n_outputs = train.input_shape, train.n_outputs
        self._train(train, val, progress)
        self.comparison_, missed = self._compare(test, self._candidates())
        self._choose()
        self._residuals = list(missed[self.chosen_].values())
        self.feature_names_in_ = np.array(self._reader.input_names, dtype=object)
        return self

    def adapt(self, support: Table) -> AdaptedRegressor:
        check_is_fitted(self)
        x, target = self._reader.support(support)
        y = torch.from_numpy(self._reader.standardized(target))
        return AdaptedRegressor(self, len(x), self._chosen().adapt(Examples(x.float(), y)))

    def evaluate(self, data: Table, *, k_shot: int | None = None, n_query: int | None = None) -> pd.DataFrame:
        check_is_fitted(self)
        tasks = self._reader.tasks(
            data, k_shot or self.k_shot_, n_query, classes=False, seed=self.random_state
        )
        return self._compare(tasks, self._candidates())[0]

    def score(self, data: Table) -> float:
        rows = self.evaluate(data)
        return float(rows[(rows.model == self.chosen_) & (rows.metric == "r2")].value.mean())

    def _judge(self, candidate: Candidate, task: Task) -> tuple[dict[str, float], np.ndarray]:
        predictions = self._reader.in_units(candidate.adapt(task.support)(task.query.x))
        y = self._reader.in_units(task.query.y.double())
        scores = task_metrics(predictions[None], y[None], ("r2", "rmse"))
        residuals = (y - predictions).abs().flatten().numpy()
        return {name: value.item() for name, value in scores.items()}, residuals

    def _fitted(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        facts = {
            "columns": self._reader.as_json(),
            "k_shot": self.k_shot_,
            "chosen": self.chosen_,
            "input_shape": self._input_shape,
        }
        residuals = torch.from_numpy(np.concatenate(self._residuals))
        sizes = torch.tensor([len(of_task) for of_task in self._residuals])
        return facts, {"residuals": residuals, "residuals.sizes": sizes}

    def _restore(self, saved: Saved) -> None:
        facts, tensors = saved.facts, saved.tensors
        self._reader = TableReader.from_json(facts["columns"])
        self.k_shot_, self.chosen_ = facts["k_shot"], facts["chosen"]
        self._input_shape, self._n_outputs = tuple(facts["input_shape"]), 1
        parts = tensors["residuals"].split(tensors["residuals.sizes"].tolist())
        self._residuals = [part.numpy() for part in parts]
        self.feature_names_in_ = np.array(self._reader.input_names, dtype=object)

    def _network(self) -> Network:
        return mlp(int(np.prod(self._input_shape)), self._n_outputs, self.hidden)


@dataclass(frozen=True)
class AdaptedRegressor:
    """A model of one task, adapted to its support rows.

    Attributes:
        estimator: that it comes from.
        n_support: rows that it has adapted to.
    """

    estimator: MetaRegressor
    n_support: int
    _models: Ensemble

    def predict(self, data: Table) -> np.ndarray:
        """Return predicted targets in their own units, `(n,)`.

        Args:
            data: rows of the task with the columns of the inputs.

        Raises:
            MetaLensError: a column is missing, or a cell is not what the column holds.
        """
        reader = self.estimator._reader
        return reader.in_units(self._models(reader.inputs(data))).numpy().ravel()

    def predict_interval(self, data: Table, coverage: float = 0.9) -> np.ndarray:
        """Return the ends of intervals that hold the targets, `(n, 2)`, in units of the target.

        The half width is `conformal_radius` of the residuals on the held-out tasks, which took no part in
        training. So a target of a new task is inside with at least the given probability, if new tasks are
        like the held-out ones and their support has `k_shot_` rows. That is an average over tasks, and not
        true of each. More support rows make the intervals wider than needed. Where a classical model was
        chosen on the same held-out tasks, the probability is slightly less.

        Args:
            data: rows of the task with the columns of the inputs.
            coverage: the probability.

        Raises:
            MetaLensError: coverage is out of range or more than so many held-out tasks can tell, the support
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
