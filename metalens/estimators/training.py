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
from metalens.evaluation import Validation
from metalens.execution.replicas import ReplicationError
from metalens.learners import Baseline
from metalens.networks import Network
from metalens.objective import Objective
from metalens.specs.calls import build_learner, build_regularizers, build_sampler
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
        self, tasks: TaskDistribution, validation: Validation, **settings: Any
    ) -> tuple[list[Objective], pd.DataFrame]:
        """Train one model for every seed, together if possible, with settings of `fit_together`.

        Returns:
            The trained objectives, and their learning curves: rows `seed, step, split, metric, value`.
        """

        def fit(objectives: Sequence[Objective], strands: Sequence[TaskDistribution]) -> list[pd.DataFrame]:
            return fit_together(
                objectives,
                strands,
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
            curves = fit(objectives, strands)
        except ReplicationError:
            objectives = self.build()
            curves = [fit([one], [of_one])[0] for one, of_one in zip(objectives, strands, strict=True)]
        curve = pd.concat(dict(zip(self.seeds, curves, strict=False)), names=["seed"])
        return objectives, curve.reset_index("seed").reset_index(drop=True)


def train_all(
    trainees: Mapping[str, Trainee],
    train: TaskDistribution,
    held_out: TaskDistribution,
    patience: int,
    progress: ProgressOf | None,
    **settings: Any,
) -> tuple[dict[str, list[Objective]], pd.DataFrame]:
    """Train the meta-learner, and then the baselines that learn from all tasks.

    A baseline whose training diverges is left out with a warning. `settings` are those of `Trainee.train`.

    Returns:
        The trained objectives by name, and learning curves: rows `model, seed, step, split, metric, value`.
    """
    validation = Validation(held_out, n_tasks=n_drawn(held_out), every=EVERY, patience=patience)
    trained, curves = {}, {}
    for name, trainee in trainees.items():
        of_model = None if progress is None else progress(name)
        try:
            trained[name], curves[name] = trainee.train(train, validation, progress=of_model, **settings)
        except DivergenceError as error:
            if not trained:
                raise
            warnings.warn(f"The baseline {name} is left out: {error}", stacklevel=4)
    return trained, pd.concat(curves, names=["model"]).reset_index("model").reset_index(drop=True)
