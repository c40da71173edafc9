"""Training of the models of an estimator: the meta-learner, and the baselines that learn from all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from metalens.data import TaskDistribution
from metalens.data.interleaved import Interleaved
from metalens.evaluation import Validation
from metalens.execution.replicas import ReplicationError
from metalens.learners import Baseline
from metalens.networks import Network
from metalens.objective import Objective
from metalens.specs.calls import build_learner, build_regularizers, build_sampler
from metalens.training.fit import fit_together
from metalens.training.outer_loop import Progress

EVERY = 50  # steps between two validations
CLIP_NORM = 10.0  # of the outer gradient, so that a bad task does not end a training

ProgressOf = Callable[[str], Progress]  # of the model with this name


@dataclass(frozen=True)
class Trainee:
    """A learner that is trained with several seeds; their predictions will be averaged.

    Attributes:
        learner: as it is written.
        regularizers: as one text.
        sampler: of the tasks of a batch, as it is written.
        network: makes a new one, initialized by PyTorch's random numbers.
        tuned: gives a learner's settings by its name, where the text has none.
        seeds: of the initializations.
    """

    learner: str
    regularizers: str
    sampler: str
    network: Callable[[], Network]
    tuned: Callable[[str], dict[str, Any]]
    seeds: range

    def build(self) -> list[Objective]:
        """Return a freshly initialized objective for every seed; one alone of what has no seeds."""
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
        *,
        steps: int,
        meta_batch_size: int,
        outer_lr: float,
        progress: Progress | None,
    ) -> tuple[list[Objective], pd.DataFrame]:
        """Train one model for every seed, side by side where that is possible.

        Returns:
            The trained objectives, and their learning curves: rows `seed, step, split, metric, value`.
        """

        def fit(objectives: Sequence[Objective], strands: Sequence[TaskDistribution]) -> list[pd.DataFrame]:
            return fit_together(
                objectives,
                strands,
                steps=steps,
                meta_batch_size=meta_batch_size,
                outer_lr=outer_lr,
                clip_norm=CLIP_NORM,
                validations=[validation] * len(objectives),
                samplers=[build_sampler(self.sampler) for _ in objectives],
                seed=self.seeds[0],
                progress=progress,
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
