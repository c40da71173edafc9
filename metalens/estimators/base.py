"""What the estimators share: training, comparison with classical models, and the choice between them."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metalens.benchmarks.calls import build_learner, build_regularizers, build_sampler, parse_calls
from metalens.distributions import TableTasks
from metalens.errors import MetaLensError
from metalens.estimators.candidates import Candidate
from metalens.estimators.saving import Saved, damaged, read_model, write_model
from metalens.evaluation import HIGHER_IS_BETTER
from metalens.networks import Network, mlp
from metalens.objective import Objective
from metalens.outer_loop import Progress, Validation
from metalens.replicas import ReplicationError
from metalens.tasks import Task
from metalens.training import fit_together

EVERY = 50  # steps between two validations
CLIP_NORM = 10.0  # of the outer gradient, so that a bad task does not end a training
DRAWN = 60  # held-out tasks that are drawn, at least, where there are fewer: each with other support rows
MOST_DRAWS = 5  # of one task
TUNED: dict[str, dict[str, Any]] = {
    "MAML": {"inner_lr": 0.03, "inner_steps": 5},
    "MetaSGD": {"inner_lr": 0.03, "inner_steps": 5},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 5},
}


class MetaEstimator(BaseEstimator):
    """Base of the estimators: a learner that is trained on tasks, and adapts to new ones.

    Args:
        learner: by its name, with settings if wanted: `"ANIL(inner_lr=0.05)"`.
        regularizers: any number of them in the same way.
        hidden: sizes of the hidden layers of the perceptron.
        k_shot: support rows of a training task; `None` for half of what nine in ten tasks have, at most 16.
        n_query: query rows of a training task; `None` for what is left, at most three times `k_shot`.
        steps: outer steps, at most.
        patience: validations, one every 50 steps, without a new best score, after which training ends.
        meta_batch: tasks per step.
        outer_lr: step size of the outer optimizer.
        seeds: how many models are trained, from different initializations; their predictions are averaged.
        fallback: whether a classical model adapts where it is better on the held-out tasks.
        random_state: of everything random.
    """

    classical: ClassVar[tuple[str, ...]]
    comparison_: pd.DataFrame
    chosen_: str
    _n_outputs: int

    def __init__(
        self,
        learner: str = "ANIL",
        *,
        regularizers: Sequence[str] = (),
        hidden: Sequence[int] = (128, 128),
        k_shot: int | None = None,
        n_query: int | None = None,
        steps: int = 2000,
        patience: int = 10,
        meta_batch: int = 8,
        outer_lr: float = 1e-3,
        seeds: int = 1,
        fallback: bool = True,
        random_state: int = 0,
    ) -> None:
        self.learner = learner
        self.regularizers = regularizers
        self.hidden = hidden
        self.k_shot = k_shot
        self.n_query = n_query
        self.steps = steps
        self.patience = patience
        self.meta_batch = meta_batch
        self.outer_lr = outer_lr
        self.seeds = seeds
        self.fallback = fallback
        self.random_state = random_state

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the trained estimator into a new folder, whole or not at all.

        The folder holds `model.json` with settings, columns and scales, `weights.safetensors`, and
        `comparison.csv` and `curve.csv` for people: no training data, and nothing that runs on loading.

        Args:
            folder: where it shall stand.
            overwrite: replace a model that stands there.

        Raises:
            MetaLensError: the folder exists and may not be replaced, or cannot be written.
            NotFittedError: there was no `fit`.
        """
        check_is_fitted(self)
        facts, tensors = self._fitted()
        for seed, objective in enumerate(self._objectives):
            tensors |= {f"{seed}.{name}": tensor for name, tensor in objective.state_dict().items()}
        write_model(
            Path(folder),
            {"kind": type(self).__name__, "metalens": version("metalens"), "settings": self.get_params()}
            | facts,
            tensors,
            {"comparison": self.comparison_, "curve": self.curve_},
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Return an estimator that `save` wrote, on the CPU.

        Raises:
            MetaLensError: the folder is missing, damaged, or of another estimator.
        """
        folder = Path(folder)
        saved = read_model(folder, cls.__name__)
        try:
            model = cls(**saved.facts["settings"])
            model._restore(saved)
            model._objectives = model._build()
            for seed, objective in enumerate(model._objectives):
                mark = f"{seed}."
                own = {k.removeprefix(mark): v for k, v in saved.tensors.items() if k.startswith(mark)}
                objective.load_state_dict(own)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(folder, error) from error
        model.comparison_, model.curve_ = saved.tables["comparison"], saved.tables["curve"]
        return model

    @abstractmethod
    def _fitted(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what was found in training beside the weights: plain values, and tensors."""

    @abstractmethod
    def _restore(self, saved: Saved) -> None:
        """Take what `_fitted` returned."""

    @abstractmethod
    def _judge(self, candidate: Candidate, task: Task) -> tuple[dict[str, float], np.ndarray]:
        """Return scores on a task by name, the primary one first, and by how much each query is missed."""

    @abstractmethod
    def _network(self) -> Network:
        """Return a network for the tasks that were met."""

    def _train(self, train: TableTasks, held_out: TableTasks, progress: Progress | None) -> None:
        """Train the models of all seeds."""
        if self.seeds < 1:
            raise MetaLensError(f"seeds must be at least 1, got {self.seeds}.")
        validation = Validation(held_out, n_tasks=n_drawn(held_out), every=EVERY, patience=self.patience)
        objectives = self._build()
        try:
            curves = self._fit(objectives, train, validation, progress)
        except ReplicationError:
            objectives = self._build()
            curves = [self._fit([one], train, validation, progress)[0] for one in objectives]
        self._objectives = objectives
        seeds = range(self.random_state, self.random_state + self.seeds)
        self.curve_ = pd.concat(dict(zip(seeds, curves, strict=True)), names=["seed", None])
        self.curve_ = self.curve_.reset_index("seed").reset_index(drop=True)

    def _fit(
        self,
        objectives: Sequence[Objective],
        train: TableTasks,
        validation: Validation,
        progress: Progress | None,
    ) -> list[pd.DataFrame]:
        n = len(objectives)
        return fit_together(
            objectives,
            [train] * n,
            steps=self.steps,
            meta_batch=self.meta_batch,
            outer_lr=self.outer_lr,
            clip_norm=CLIP_NORM,
            validations=[validation] * n,
            samplers=[build_sampler(self._text()) for _ in objectives],
            seed=self.random_state,
            progress=progress,
        )

    def _build(self) -> list[Objective]:
        """Return a freshly initialized objective for every seed."""
        objectives = []
        for seed in range(self.random_state, self.random_state + self.seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                learner = build_learner(self.learner, self._network(), _tuned)
                objectives.append(Objective(learner, build_regularizers(self._text(), learner)))
        return objectives

    def _candidates(self) -> list[Candidate]:
        """Return the meta-learner, then the classical models."""
        (call,) = parse_calls(self.learner)
        meta = Candidate(call.name, tuple(objective.learner.eval() for objective in self._objectives))
        outputs = mlp(1, self._n_outputs, [1])  # all that a classical model takes of a network
        others = [name for name in self.classical if name != meta.name]
        return [meta, *(Candidate(name, (build_learner(name, outputs, _tuned),)) for name in others)]

    def _compare(
        self, tasks: TableTasks, candidates: Sequence[Candidate]
    ) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
        """Adapt every candidate to the same support sets, and score it on the same queries.

        Returns:
            Rows `model, task, metric, value`, the mean over the draws of a task; and by how much each query
            is missed, by model and task.
        """
        rows: list[tuple[str, str, str, float]] = []
        missed: dict[str, dict[str, list[np.ndarray]]] = {of.name: defaultdict(list) for of in candidates}
        for number in range(n_drawn(tasks)):
            task, name = tasks[number], tasks.task_name(number)
            for candidate in candidates:
                scores, by = self._judge(candidate, task)
                rows += [(candidate.name, name, metric, value) for metric, value in scores.items()]
                missed[candidate.name][name].append(by)
        frame = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
        means = frame.groupby(["model", "task", "metric"], sort=False, as_index=False).mean()
        return means, {
            model: {name: np.concatenate(parts) for name, parts in of_tasks.items()}
            for model, of_tasks in missed.items()
        }

    def _chosen(self) -> Candidate:
        """Return the candidate that adapts."""
        return next(candidate for candidate in self._candidates() if candidate.name == self.chosen_)

    def _choose(self) -> None:
        """Decide by the comparison which candidate adapts, and say so where it is not the meta-learner."""
        metric = self.comparison_.metric.iloc[0]
        of_metric = self.comparison_[self.comparison_.metric == metric]
        means = of_metric.groupby("model", sort=False).value.mean()
        meta = means.index[0]
        ranked = (-means if metric in HIGHER_IS_BETTER else means).fillna(np.inf).sort_values(kind="stable")
        best = ranked.index[0]
        self.chosen_ = best if self.fallback else meta
        if best != meta:
            found = (
                f"On {of_metric.task.nunique()} held-out tasks {meta} does not beat {best} (mean {metric} "
                f"{means[meta]:.4g} against {means[best]:.4g})"
            )
            warnings.warn(
                f"{found}, so {best} adapts; set fallback=False to use {meta} all the same."
                if self.fallback
                else f"{found}; set fallback=True to use {best}.",
                stacklevel=3,
            )

    def _text(self) -> str:
        """Return regularizers and sampler as one text."""
        texts = [self.regularizers] if isinstance(self.regularizers, str) else self.regularizers
        return " + ".join(texts) or "none"


def n_drawn(tasks: TableTasks) -> int:
    """Return how many tasks of a held-out split are drawn: each once, or a few times where there are few."""
    n = len(tasks.task_names)
    return n * min(MOST_DRAWS, -(-DRAWN // n))


def _tuned(learner: str) -> dict[str, Any]:
    return TUNED.get(learner, {})
