"""Training of the meta-learner of an estimator and of the baselines that learn from all tasks."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from metalens.training.outer_loop import Progress

EVERY = 50  # steps between two validations
CLIP_NORM = 10.0  # of the outer gradient, so that a bad task does not ruin the training

ProgressOf = Callable[[str], Progress]  # of the model with this name


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
        return LEARNERS[learner_call(self.learner).name]

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
        self,
        tasks: TaskDistribution,
        validation: Validation,
        stopwatch: Stopwatch,
        **settings: Any,
    ) -> tuple[list[Objective], pd.DataFrame]:
        """Train one model for every seed, together if possible, with settings of `fit_together`.

        Returns:
            The trained objectives, and their learning curves: rows `seed, step, split, metric, value`.
        """

        def fit(
            objectives: Sequence[Objective], strands: Sequence[TaskDistribution], progress: Progress
        ) -> list[pd.DataFrame]:
            return fit_together(
                objectives,
                strands,
                progress=progress,
                clip_norm=CLIP_NORM,
                validations=[validation] * len(objectives),
                samplers=[build_sampler(self.sampler) for _ in objectives],
                seed=self.seeds[0],
                **settings,
            )

        objectives = self.build()
        n = len(objectives)
        strands = [Interleaved(tasks, number, n) for number in range(n)]
        try:
            curves = fit(objectives, strands, stopwatch)
        except ReplicationError:
            objectives = self.build()
            pairs = zip(objectives, strands, range(n, 0, -1), strict=True)
            curves = [fit([one], [of_one], stopwatch.part(n_left))[0] for one, of_one, n_left in pairs]
        curve = pd.concat(dict(zip(self.seeds, curves, strict=False)), names=["seed"])
        return objectives, curve.reset_index("seed").reset_index(drop=True)


def train_all(
    trainees: Mapping[str, Trainee],
    train: TaskDistribution,
    held_out: TaskDistribution,
    patience: int,
    progress: ProgressOf | None,
    limit: TimeLimit,
    **settings: Any,
) -> tuple[dict[str, list[Objective]], pd.DataFrame]:
    """Train the meta-learner and the baselines that learn from all tasks, in the order of `TimeLimit`.

    A baseline whose training diverges is left out with a warning. `settings` are those of `fit_together`.

    Returns:
        The trained objectives by name, the meta-learner first, and learning curves: rows `model, seed, step,
        split, metric, value`.
    """
    validation = Validation(held_out, n_tasks=n_drawn(held_out), every=EVERY, patience=patience)
    meta, found = next(iter(trainees)), {}
    for name, share, n_left in _in_order(trainees):
        if name != meta and limit.left(share) <= 0:
            limit.cut[name] = "not trained"
            continue
        if name == meta:
            share = limit.extended(share, MIN_TRAIN)
        of_model = None if progress is None else progress(name)
        stopwatch = limit.stopwatch(name, of_model, settings["steps"], share).part(n_left)
        try:
            found[name] = trainees[name].train(train, validation, stopwatch, **settings)
        except DivergenceError as error:
            if name == meta:
                raise
            warnings.warn(f"The baseline {name} is left out: {error}", stacklevel=4)
    found = {name: found[name] for name in trainees if name in found}
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
