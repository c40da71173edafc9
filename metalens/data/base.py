"""A task distribution is a pure function from an index to a task.

`distribution[i]` depends on the distribution's settings and on `i` alone: not on workers, on the order
of access or on where a run was resumed. So every method meets the same tasks, and differences are paired.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import index
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metalens.errors import MetaLensError, check_number
from metalens.fields import Fields
from metalens.metrics import Metric
from metalens.settings import ShowsSettings
from metalens.tasks import Examples, Task, stack_tasks

Split = Literal["train", "val", "test"]


class Recent:
    """A function of hashable arguments that keeps its latest results, but does not pickle them."""

    def __init__(self, function: Callable[..., Any], maxsize: int) -> None:
        self._function, self._maxsize = function, maxsize
        self._results = lru_cache(maxsize)(function)

    def __call__(self, *arguments: Any) -> Any:
        return self._results(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self._function, self._maxsize)


class TaskDistribution(ShowsSettings, ABC):
    """Tasks by number: the one interface between data and learners.

    To bring your own data, subclass it and write `__getitem__`; override `batch` where many tasks can
    be made at once faster than one by one.

    Args:
        split: which tasks: `"train"`, `"val"` or `"test"`; the three never share a task.
        seed: with the split, the settings and the index it determines a task completely.

    Raises:
        MetaLensError: the split has another name, or the seed is negative.

    >>> import torch
    >>> from metalens import Examples, Task, TaskDistribution
    >>> class Lines(TaskDistribution):
    ...     def __getitem__(self, index):
    ...         x = torch.linspace(-1, 1, 10).unsqueeze(1)
    ...         both = Examples(x, x * index)
    ...         return Task(both, both)
    >>> Lines("train").batch([1, 2]).support.y.shape
    torch.Size([2, 10, 1])
    """

    n_classes: int | None = None  # of the whole split, where that is known
    equal_sizes: bool = True  # of all tasks; where they differ, `evaluate` takes them one by one
    unseen_domains: Sequence[str] = ()  # domains absent from training
    fields: Fields | None = None  # of packed inputs, see there
    metrics: Sequence[str | Metric] = ()  # that `evaluate` reports; by default see there
    extra_metrics: Sequence[str] = ()  # of real targets, beside the usual ones

    def __init__(self, split: Split = "train", *, seed: int = 0) -> None:
        if not isinstance(split, str) or split not in get_args(Split):
            names = ", ".join(get_args(Split))
            raise MetaLensError(f"split must be one of {names}, got {reprlib.repr(split)}.")
        check_number("seed", seed, whole=True)
        if seed < 0:
            raise MetaLensError(f"seed must be 0 or more, got {seed}.")
        self.split: Split = split
        self.seed = seed

    @abstractmethod
    def __getitem__(self, index: int) -> Task:
        """Return task number `index` (0 or more)."""

    @property
    def pool_size(self) -> int | None:
        """The number of tasks of a fixed pool of training tasks; `None` of an unlimited stream."""
        return getattr(self, "n_train_tasks", None) if self.split == "train" else None

    def task_name(self, index: int) -> str:
        """Return the name of a task; by default its number."""
        return str(index)

    def domain(self, index: int) -> str | None:
        """Return the name of the domain of a task; `None` where all tasks are of one domain."""
        return None

    def source(self, index: int) -> str | None:
        """Return the name of the task of a fixed set that a task is drawn from; `None` if there is no set.

        Statistics count draws from one source as one task, and pair tasks by it across seeds.
        """
        return None

    def metadata(self) -> dict[str, Any]:
        """Return facts about the data, for the record of a run."""
        return {}

    def extra_scores(self, indices: Sequence[int], predictions: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return scores that need this distribution, such as errors in the units of the data.

        `evaluate` reports them beside its metrics; lower is better. There are none by default.

        Args:
            indices: T task numbers.
            predictions: for the queries of these tasks, `(T, q, c)`.
            y: their targets.

        Returns:
            Tensors `(T,)` by the name of the score, which is in `metalens.metrics.METRICS`.
        """
        return {}

    def batch(self, indices: Sequence[int]) -> Task:
        """Return the tasks of T indices as one batch, equal to stacking `self[i]`."""
        return stack_tasks([self[number] for number in _task_numbers(indices)])

    def examples_by_task(self, n: int) -> dict[str, Examples]:
        """Return the examples of tasks 0 ... n - 1, those of one name together, for models of all tasks.

        Draws of one named task share examples: as many equal ones are kept as the draw with most of them has.
        A distribution that knows all examples of its tasks overrides this.

        >>> from metalens import Sinusoid
        >>> [examples.x.shape for examples in Sinusoid().examples_by_task(2).values()]
        [torch.Size([25, 1]), torch.Size([25, 1])]
        """
        parts: dict[str, list[Examples]] = {}
        known: dict[str, Counter[bytes]] = {}
        for number in range(n):
            name, task = self.task_name(number), self[number]
            drawn = Examples(*(torch.cat(pair) for pair in zip(task.support, task.query, strict=True)))
            new = _surplus(drawn, known.setdefault(name, Counter()))
            parts.setdefault(name, []).append(Examples(drawn.x[new], drawn.y[new]))
        return {
            name: Examples(*(torch.cat(of_part) for of_part in zip(*of_task, strict=True)))
            for name, of_task in parts.items()
        }

    def with_global_labels(self) -> TaskDistribution:
        """Return the same tasks with targets that mean the same in all of them.

        Real targets do already. A distribution of classes overrides this and numbers the classes of its
        whole split, `0 ... n_classes - 1`, for learners that pretrain one model on all tasks.

        Raises:
            MetaLensError: targets are class indices, and the distribution does not know their classes.
        """
        if not self[0].query.y.is_floating_point():
            raise MetaLensError(
                f"{type(self).__name__} does not number the classes of all its tasks; override its "
                "`with_global_labels` to pretrain on them."
            )
        return self


class BatchedTasks(TaskDistribution):
    """A distribution that makes whole batches; a subclass writes `_make_batch`."""

    @abstractmethod
    def _make_batch(self, numbers: list[int]) -> Task:
        """Return a batch of tasks."""

    def __getitem__(self, index: int) -> Task:
        return Task.of_tensors([tensor[0] for tensor in self.batch([index]).tensors])

    def batch(self, indices: Sequence[int]) -> Task:
        return self._make_batch(_task_numbers(indices))

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, get_args(Split).index(self.split), *key])


class BlockDistribution(BatchedTasks):
    """A distribution that draws its tasks in blocks, vectorized, from a NumPy generator.

    Task `i` is row `i % block_size` of block `i // block_size`, and block `b` is drawn from a generator
    seeded with `(seed, split, b)`. So single tasks and bulk access agree, and bulk access is a slice.

    Args:
        split: see `TaskDistribution`.
        seed: see `TaskDistribution`.
        n_train_tasks: `None` for an unlimited stream, or the size P of a fixed pool of training tasks
            with fixed data. The stream then repeats the pool, in a new random order each time round.
            The other splits are always unlimited.

    Raises:
        MetaLensError: the pool size is below 1.
    """

    block_size = 512

    def __init__(self, split: Split = "train", *, seed: int = 0, n_train_tasks: int | None = None) -> None:
        super().__init__(split, seed=seed)
        if n_train_tasks is not None and n_train_tasks < 1:
            raise MetaLensError(f"n_train_tasks must be at least 1 or None (unlimited), got {n_train_tasks}.")
        self.n_train_tasks = n_train_tasks
        self._block = Recent(self._draw_block, 4)

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int) -> Task:
        """Draw a batch of n tasks from the generator."""

    def _make_batch(self, numbers: list[int]) -> Task:
        tasks = np.array(numbers, dtype=np.int64)
        if self.split == "train" and (size := self.n_train_tasks) is not None:
            rounds, positions = np.divmod(tasks, size)
            for number in np.unique(rounds):
                of_round = rounds == number
                order = round_order(self.seed, self.split, int(number), size)
                tasks[of_round] = order[positions[of_round]]
        blocks, rows = np.divmod(tasks, self.block_size)
        if (blocks == blocks[0]).all():  # nearly always
            return _rows(self._block(int(blocks[0])), rows)
        parts = [_rows(self._block(int(b)), rows[blocks == b]) for b in np.unique(blocks)]
        # The parts are sorted by block: undo the sorting.
        order = torch.from_numpy(np.argsort(np.argsort(blocks, kind="stable")))
        tensors = zip(*(part.tensors for part in parts), strict=True)
        return Task.of_tensors([torch.cat(of_parts)[order] for of_parts in tensors])

    def _draw_block(self, block: int) -> Task:
        return self.draw(self._generator(0, block), self.block_size).as_batch()


def _task_numbers(indices: Iterable[int]) -> list[int]:
    """Return the task numbers of a batch as a list; raise `MetaLensError` if they are none."""
    try:
        numbers = [index(number) for number in indices]
    except TypeError:
        raise MetaLensError(
            f"Task numbers must be whole, got {indices!r}; take several tasks by batch(range(...))."
        ) from None
    if not numbers or min(numbers) < 0:
        raise MetaLensError(f"Task numbers must be 0 or more and at least one, got {numbers}.")
    return numbers


@lru_cache(maxsize=16)
def round_order(seed: int, split: Split, number: int, size: int) -> np.ndarray:
    """Return the order of a pool of tasks in a round of training, `(size,)`."""
    return np.random.default_rng([seed, get_args(Split).index(split), 1, number]).permutation(size)


def _surplus(drawn: Examples, known: Counter[bytes]) -> list[int]:
    """Return the examples of which a draw has more equal ones than are known, and count them as known."""
    flat = [part.flatten(1).numpy() if part.dim() > 1 else part[:, None].numpy() for part in drawn]
    new, seen = [], Counter[bytes]()
    for place, (x, y) in enumerate(zip(*flat, strict=True)):
        key = x.tobytes() + y.tobytes()
        seen[key] += 1
        if seen[key] > known[key]:
            known[key] += 1
            new.append(place)
    return new


def _rows(batch: Task, numbers: np.ndarray) -> Task:
    """Return some tasks of a batch; a map over any tree would take longer than a small training step."""
    index = torch.from_numpy(numbers)
    return Task.of_tensors([tensor[index] for tensor in batch.tensors])
