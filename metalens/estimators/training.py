"""Training of the meta-learner of an estimator and of the baselines that learn from all tasks."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch

from metalens.data import TaskDistribution
from metalens.data.interleaved import Interleaved
from metalens.errors import DivergenceError
from metalens.estimators.draws import n_drawn
from metalens.estimators.time_limit import (
    FIT,
    FIT_SLOW,
    MIN_TRAIN,
    TRAIN,
    TRAIN_BASELINES,
    Stopwatch,
    TimeLimit,
)
from metalens.evaluation import Validation
from metalens.execution.replicas import ReplicationError
from metalens.learners import Baseline, Learner, MultiTaskGP
from metalens.networks import Network
from metalens.objective import Objective
from metalens.specs.calls import LEARNERS, build_learner, build_regularizers, build_sampler, learner_call
from metalens.training.fit import fit_together
from metalens.training.hooks import OnStep

EVERY = 50  # steps between two validations
CLIP_NORM = 10.0  # of the outer gradient, so that a bad task does not ruin the training

ProgressOf = Callable[[str], OnStep]  # of the model with this name


class TrainingTasks(NamedTuple):
    """What the models of an estimator learn from.

    Attributes:
        known: that models are fitted to which take no outer step.
        train: that the others are trained on.
        val: by which their best weights are chosen; `None` to keep the last ones.
    """

    known: TaskDistribution
    train: TaskDistribution
    val: TaskDistribution | None


class _Run(NamedTuple):
    """An objective to train, its tasks, and those that decide which weights are kept."""

    objective: Objective
    tasks: TaskDistribution
    validation: Validation | None


@dataclass(frozen=True)
class Trainee:
    """A learner to train with several seeds.

    Attributes:
        learner: its text, such as `"ANIL(inner_lr=0.05)"`.
        regularizers: their text.
        sampler: its text.
        network: returns a new network, initialized by PyTorch's random numbers.
        tuned: returns the default settings of a learner by its name.
        seeds: of the initializations.
    """

    learner: str
    regularizers: str
    sampler: str
    network: Callable[[], Network]
    tuned: Callable[[str], dict[str, Any]]
    seeds: range

    @property
    def kind(self) -> type[Learner]:
        """The class of the learner."""
        return LEARNERS.find(learner_call(self.learner).name)

    def build(self) -> list[Objective]:
        """Return a new objective for every seed; a single one of a baseline, which has no seeds."""
        objectives = []
        for seed in self.seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                learner = build_learner(self.learner, self.network(), self.tuned)
                objectives.append(Objective(learner, build_regularizers(self.regularizers)))
        return objectives[:1] if isinstance(objectives[0].learner, Baseline) else objectives

    def train(
        self, tasks: Sequence[TrainingTasks], patience: int, stopwatch: Stopwatch, **settings: Any
    ) -> list[tuple[list[Objective], pd.DataFrame]]:
        """Train one model for every seed on each of some tasks, all together if possible.

        Args:
            tasks: to train on.
            patience: validations without a new best score after which a training ends.
            stopwatch: of all.
            settings: of `fit_together`.

        Returns:
            For each of the tasks, the trained objectives and their learning curves: rows `seed, step, split,
            metric, value`.
        """

        def fit(runs: Sequence[_Run], on_step: OnStep) -> list[pd.DataFrame]:
            objectives, strands, validations = zip(*runs, strict=True)
            return fit_together(
                objectives,
                strands,
                on_step=on_step,
                clip_norm=CLIP_NORM,
                validations=validations,
                samplers=[build_sampler(self.sampler) for _ in objectives],
                seed=self.seeds[0],
                **settings,
            )

        runs = self._runs(tasks, patience)
        try:
            if issubclass(self.kind, Baseline) and len(runs) > 1:
                raise ReplicationError("Models that take no step are not computed side by side.")
            curves = fit(runs, stopwatch)
        except ReplicationError:
            runs = self._runs(tasks, patience)
            curves = [fit([run], stopwatch.part(len(runs) - place))[0] for place, run in enumerate(runs)]
        n, found = len(runs) // len(tasks), []
        for start in range(0, len(runs), n):
            of_seeds = dict(zip(self.seeds, curves[start : start + n], strict=False))
            curve = pd.concat(of_seeds, names=["seed"]).reset_index("seed").reset_index(drop=True)
            found.append(([run.objective for run in runs[start : start + n]], curve))
        return found

    def _runs(self, tasks: Sequence[TrainingTasks], patience: int) -> list[_Run]:
        """Return new objectives of all seeds for each of the tasks, with what they are trained on."""
        runs = []
        for of_one in tasks:
            objectives, source, validation = self.build(), of_one.train, None
            if issubclass(self.kind, Baseline):
                source = of_one.known
            if of_one.val is not None:
                n_tasks = n_drawn(of_one.val)
                validation = Validation(of_one.val, n_tasks=n_tasks, every=EVERY, patience=patience)
            for number, objective in enumerate(objectives):
                runs.append(_Run(objective, Interleaved(source, number, len(objectives)), validation))
        return runs


def train_all(
    trainees: Mapping[str, Trainee],
    tasks: Sequence[TrainingTasks],
    patience: int,
    progress: ProgressOf | None,
    limit: TimeLimit,
    lasts: Mapping[str, int] | None = None,
    **settings: Any,
) -> list[tuple[dict[str, list[Objective]], pd.DataFrame]]:
    """Train the meta-learner and the baselines that learn from all tasks, in the order of `TimeLimit`.

    A baseline whose training diverges is left out with a warning.

    Args:
        trainees: by name, the meta-learner first.
        tasks: to train on; with several, there is a model for each, of the same structure.
        patience: validations without a new best score after which a training ends.
        progress: see `MetaRegressor.fit`.
        limit: of the time.
        lasts: by name, the step after which a training ends; for tasks without validation.
        settings: of `fit_together`.

    Returns:
        For each of the tasks, the trained objectives by name, the meta-learner first, and learning curves:
        rows `model, seed, step, split, metric, value`.
    """
    meta, found = next(iter(trainees)), {}
    for name, share, n_left in _in_order(trainees):
        if name != meta and limit.left(share) <= 0:
            limit.cut[name] = "not trained"
            continue
        if name == meta:
            share = limit.extended(share, MIN_TRAIN)
        of_model = None if progress is None else progress(name)
        last = (lasts or {}).get(name)
        stopwatch = limit.stopwatch(name, of_model, settings["steps"], share, last).part(n_left)
        try:
            found[name] = trainees[name].train(tasks, patience, stopwatch, **settings)
        except DivergenceError as error:
            if name == meta:
                raise
            warnings.warn(f"The baseline {name} is left out: {error}", stacklevel=5)
    return [
        _by_model({name: found[name][place] for name in trainees if name in found})
        for place in range(len(tasks))
    ]


def _by_model(
    found: Mapping[str, tuple[list[Objective], pd.DataFrame]],
) -> tuple[dict[str, list[Objective]], pd.DataFrame]:
    curve = pd.concat({name: curve for name, (_, curve) in found.items()}, names=["model"])
    trained = {name: objectives for name, (objectives, _) in found.items()}
    return trained, curve.reset_index("model").reset_index(drop=True)


def _in_order(trainees: Mapping[str, Trainee]) -> list[tuple[str, float, int]]:
    """Return what to train, the quick first, by what share of a time limit, and how many share the rest."""
    meta, *others = trainees
    networks = [name for name in others if not issubclass(trainees[name].kind, Baseline)]
    fits = [name for name in others if name not in networks]
    slow = [name for name in fits if trainees[name].kind is MultiTaskGP]
    return [
        *((name, FIT, 1) for name in fits if name not in slow),
        (meta, TRAIN, 1),
        *((name, TRAIN_BASELINES, len(networks) - place) for place, name in enumerate(networks)),
        *((name, FIT_SLOW, 1) for name in slow),
    ]
