"""Which tasks make the batch of an outer step, and what each of them counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.processes import ALONE, Processes
from metalens.tasks import Examples, Task, place


class Choice(NamedTuple):
    """The batch of an outer step.

    Attributes:
        numbers: T task numbers of the distribution.
        weights: what each task counts in the outer loss, `(T,)`, adding up to 1; `None` for all the same.
        queries: which query examples of each task are used, `(T, n)` indices; `None` for all.
    """

    numbers: Sequence[int]
    weights: Tensor | None = None
    queries: Tensor | None = None

    def batch(self, tasks: TaskDistribution, processes: Processes = ALONE) -> Task:
        """Return the chosen tasks, of several processes those that are this one's share."""
        batch = tasks.batch(processes.shard(self.numbers))
        if self.queries is None:
            return batch
        rows = torch.arange(len(self.queries)).unsqueeze(1)
        query = Examples(*(tensor[rows, self.queries] for tensor in batch.query))
        return Task(batch.support, query, batch.descriptors)


class TaskSampler(ABC):
    """Decides which tasks make the batch of each outer step.

    A choice depends on the step, the distribution with its seed, and, for a sampler that asks the model, on
    the training so far: on no global random state, and it leaves that as it was.

    Attributes:
        asks_model: it looks at what the objective makes of candidate tasks. Such a sampler trains one
            objective in one process.
        weighs: it says what each task counts. Such steps are not compiled.
    """

    asks_model: bool = False
    weighs: bool = False

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        """Raise `MetaLensError` with the reason where it cannot make batches of these tasks."""
        if self.asks_model and objective.processes.world_size > 1:
            raise MetaLensError(
                f"{type(self).__name__} asks the model at each step, which one process does; use devices=1."
            )

    @abstractmethod
    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        """Return the batch of an outer step.

        Args:
            objective: what is trained, as it is before this step.
            tasks: the training tasks.
            step: number of the step, from 0.
            meta_batch_size: T, the number of tasks in the batch.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what it has learned, as a tree of tensors and plain values: what a checkpoint keeps of it.

        A sampler whose choices depend on earlier ones overrides this and `load_state_dict`.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} has a state_dict, and no load_state_dict.")


class CandidateSampler(TaskSampler):
    """Base of samplers that choose each batch among more tasks than it has.

    Step n has candidates of its own, the next ones of the distribution. Of a fixed pool of training tasks no
    task is a candidate twice in one step.

    Args:
        oversampling: candidates for each task of the batch; of a small pool, as many as there are.

    Attributes:
        held_out: number of further tasks of each step, which are not candidates.

    Raises:
        MetaLensError: there is less than one candidate for a task of the batch; the pool has fewer tasks than
            are needed at a step.
    """

    held_out: int = 0

    def __init__(self, *, oversampling: int = 4) -> None:
        if oversampling < 1:
            raise MetaLensError(
                f"{type(self).__name__}: oversampling must be at least 1, got {oversampling}."
            )
        self.oversampling = oversampling

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        super().check(objective, tasks, meta_batch_size)
        pool = tasks.pool_size
        if pool is not None and pool < meta_batch_size + self.held_out:
            raise MetaLensError(
                f"{type(self).__name__} needs {meta_batch_size + self.held_out} training tasks at a step, "
                "got a "
                f"pool of {pool}; lower meta_batch_size{' or held_out' if self.held_out else ''}."
            )

    def candidates(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        """Return the numbers of a step's candidates."""
        numbers = self._window(tasks, step, meta_batch_size)
        return numbers[: len(numbers) - self.held_out]

    def held_out_tasks(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        """Return the numbers of the tasks that are held out at a step."""
        numbers = self._window(tasks, step, meta_batch_size)
        return numbers[len(numbers) - self.held_out :]

    def _window(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        return window(tasks, step, self.oversampling * meta_batch_size + self.held_out)


def window(tasks: TaskDistribution, step: int, size: int) -> range:
    """Return the numbers of the next tasks at a step, without repetition.

    They are numbers `step * size ... (step + 1) * size - 1` of an unlimited stream. A pool of P tasks is
    gone through in rounds, each in a random order of its own: a window is the next `min(size, P)` tasks of a
    round, and a rest of a round that is too short for a window is left out.

    >>> from metalens import Sinusoid
    >>> window(Sinusoid(n_train_tasks=10), 3, 4)
    range(14, 18)
    """
    pool = tasks.pool_size
    if pool is None:
        return range(step * size, (step + 1) * size)
    size = min(size, pool)
    round_number, part = divmod(step, pool // size)
    start = round_number * pool + part * size
    return range(start, start + size)


def generator_of(tasks: TaskDistribution, step: int) -> np.random.Generator:
    """Return the source of random numbers for a step."""
    return np.random.default_rng([tasks.seed, step])


def descriptors_of(tasks: TaskDistribution, numbers: Sequence[int]) -> Tensor:
    """Return the descriptors of tasks, `(T, p)`.

    Raises:
        MetaLensError: they have none.
    """
    descriptors = tasks.batch(numbers).descriptors
    if descriptors.shape[-1] == 0:
        raise MetaLensError(
            f"The tasks of {type(tasks).__name__} have no descriptors; let the sampler ask the model instead."
        )
    return descriptors


@contextmanager
def asking(objective: Objective, tasks: TaskDistribution, numbers: Sequence[int]) -> Iterator[AdaptedTasks]:
    """Yield an episode of candidates; asking it leaves no gradient, and the random stream as it was.

    The tasks are as the distribution has them, before any regularizer changes them.
    """
    learner = objective.learner
    batch = place(tasks.batch(numbers), learner.device, learner.dtype)
    chunk = None if objective.chunk == "auto" else objective.chunk
    with torch.no_grad(), torch.random.fork_rng():
        yield AdaptedTasks(learner, batch, objective.batching, chunk=chunk)
