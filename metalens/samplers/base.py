"""Task samplers choose the batch of an outer step, and may weight its tasks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.data import TaskDistribution
from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.processes import ALONE, Processes
from metalens.settings import ShowsSettings
from metalens.tasks import Examples, Task, place


class Choice(NamedTuple):
    """The batch of an outer step.

    Attributes:
        numbers: T task numbers of the distribution.
        weights: of the tasks in the outer loss, `(T,)`, adding up to 1; `None` for equal weights.
        queries: which query examples of each task are used, `(T, n)` indices; `None` for all.
    """

    numbers: Sequence[int]
    weights: Tensor | None = None
    queries: Tensor | None = None

    def batch(self, tasks: TaskDistribution, processes: Processes = ALONE) -> Task:
        """Return the chosen tasks; with several processes, the shard of this one."""
        batch = tasks.batch(processes.shard(self.numbers))
        if self.queries is None:
            return batch
        rows = torch.arange(len(self.queries)).unsqueeze(1)
        query = Examples(*(tensor[rows, self.queries] for tensor in batch.query))
        return Task(batch.support, query, batch.descriptors)


class TaskSampler(ShowsSettings, ABC):
    """Base of task samplers, which choose the batch of each outer step.

    A choice depends on the step, on the distribution with its seed and, for a sampler that uses the model, on
    the training so far. It neither reads nor changes the global random state.

    Attributes:
        asks_model: it evaluates the model on candidate tasks; it then trains one objective in one process.
        weighs: it weights tasks; steps are then not compiled.
    """

    asks_model: bool = False
    weighs: bool = False

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        """Raise `MetaLensError` if no batches can be made of these tasks."""
        if self.asks_model and objective.processes.world_size > 1:
            raise MetaLensError(
                f"{type(self).__name__} asks the model at each step, in a single process; use devices=1."
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
        """Return its state for checkpoints, as a tree of tensors and plain values.

        A sampler whose choices depend on earlier ones overrides this and `load_state_dict`.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} has a state_dict but no load_state_dict.")


class CandidateSampler(TaskSampler):
    """Base of samplers that choose each batch from a larger set of candidates.

    The candidates of a step are the next tasks of the distribution. In a fixed pool of training tasks, no
    task is a candidate twice in one step.

    Args:
        oversampling: candidates per task of the batch; fewer if the pool is small.

    Raises:
        MetaLensError: `oversampling` is below 1, or the pool has fewer tasks than a step needs.
    """

    def __init__(self, *, oversampling: int = 4) -> None:
        check_sizes(oversampling=oversampling)
        self.oversampling = oversampling

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        super().check(objective, tasks, meta_batch_size)
        pool = tasks.pool_size
        if pool is not None and pool < meta_batch_size:
            raise MetaLensError(
                f"{type(self).__name__} needs {meta_batch_size} training tasks at a step, got a pool of "
                f"{pool}; lower meta_batch_size."
            )

    def candidates(self, tasks: TaskDistribution, step: int, meta_batch_size: int) -> range:
        """Return the numbers of a step's candidates."""
        return window(tasks, step, self.oversampling * meta_batch_size)


def window(tasks: TaskDistribution, step: int, size: int) -> range:
    """Return the numbers of the next tasks at a step, without repetition.

    They are numbers `step * size ... (step + 1) * size - 1` of an unlimited stream. A pool of P tasks is used
    in rounds, each in a random order: a window is the next `min(size, P)` tasks of a round, and a remainder
    that is too short for a window is skipped.

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


def descriptors_of(tasks: TaskDistribution, numbers: Sequence[int]) -> Tensor:
    """Return the descriptors of tasks, `(T, p)`; raise `MetaLensError` if they have none."""
    descriptors = tasks.batch(numbers).descriptors
    if descriptors.shape[-1] == 0:
        raise MetaLensError(
            f"The tasks of {type(tasks).__name__} have no descriptors; let the sampler ask the model instead."
        )
    return descriptors


@contextmanager
def adapted_candidates(
    objective: Objective, tasks: TaskDistribution, numbers: Sequence[int]
) -> Iterator[AdaptedTasks]:
    """Yield the adapted tasks of these numbers, which regularizers have not changed, without gradients.

    The random stream is restored afterwards.
    """
    learner = objective.learner
    batch = place(tasks.batch(numbers), learner.device, learner.dtype)
    with torch.no_grad(), torch.random.fork_rng():
        yield AdaptedTasks(learner, batch, objective.batching, chunk=objective.chunk)
