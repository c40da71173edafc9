"""Samplers that learn, at each step, from tasks that are held out of it."""

from __future__ import annotations

import numpy as np

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.samplers import CandidateSampler
from metalens.samplers.base import window


class HeldOutSampler(CandidateSampler):
    """Base of samplers that learn from further tasks of each step, which are not candidates.

    Attributes:
        held_out: number of these tasks, at least 1.
    """

    held_out: int

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        super().check(objective, tasks, meta_batch_size)
        needed, pool = meta_batch_size + self.held_out, tasks.pool_size
        if pool is not None and pool < needed:
            raise MetaLensError(
                f"{type(self).__name__} needs {needed} training tasks at a step, got a pool of {pool}; lower "
                "meta_batch_size or held_out."
            )

    def candidates(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        return self._window(tasks, step, meta_batch_size)[: -self.held_out]

    def held_out_tasks(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        """Return the numbers of a step's held-out tasks."""
        return self._window(tasks, step, meta_batch_size)[-self.held_out :]

    def _window(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        return window(tasks, step, self.oversampling * meta_batch_size + self.held_out)


def generator_of(tasks: TaskDistribution, step: int) -> np.random.Generator:
    """Return the random generator of a step."""
    return np.random.default_rng([tasks.seed, step])
