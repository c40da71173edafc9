"""The base of the baselines that are fitted to the training tasks, all together."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metalens.data import TaskDistribution
from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError
from metalens.learners.base import State
from metalens.learners.baselines.base import Baseline


class TrainingRows(NamedTuple):
    """The examples of all training tasks.

    Attributes:
        x: inputs, `(n, d)`.
        y: real targets, `(n, c)`.
        tasks: the number of the task of each, `(n,)`, from 0.
    """

    x: np.ndarray
    y: np.ndarray
    tasks: np.ndarray

    def parts(self, n: int) -> np.ndarray:
        """Return the part of each example, `(n,)`: at most n parts of whole tasks, divided at random.

        >>> rows = TrainingRows(np.zeros((4, 1)), np.zeros((4, 1)), np.array([0, 0, 1, 2]))
        >>> np.unique(rows.parts(5)).tolist()
        [0, 1, 2]
        """
        n_tasks = int(self.tasks.max()) + 1
        return (np.random.default_rng(0).permutation(n_tasks) % min(n, n_tasks))[self.tasks]


class FittedBaseline(Baseline):
    """A baseline with a model of all training tasks, which `fit` has it fitted to before the first step.

    What it finds is kept in buffers, whose sizes are only known then. A subclass defines `fit_rows`, and
    fills the buffer `noise` there.

    Args:
        n_outputs: number of targets.
        n_tasks: number of training tasks to draw; all examples of those of one name are used.

    Attributes:
        noise: the variance of targets around the model of their task, `(c,)`; empty before training.

    Raises:
        MetaLensError: a setting is below 1.
    """

    min_support = 0
    regularizer_refusal = "it is fitted to all training tasks without gradients."
    noise: Tensor

    def __init__(self, n_outputs: int, *, n_tasks: int = 1000) -> None:
        super().__init__(n_outputs)
        check_sizes(n_tasks=n_tasks)
        self.n_tasks = n_tasks
        self.register_buffer("noise", torch.zeros(0))
        resize_when_loaded(self)

    @abstractmethod
    def fit_rows(self, rows: TrainingRows) -> None:
        """Fit to the examples of at least 2 training tasks, one of which has 2 or more."""

    def prepare(self, tasks: TaskDistribution) -> None:
        self._check_targets(*tasks[0].query)
        of_task = tasks.examples_by_task(self.n_tasks)
        name, sizes = type(self).__name__, [len(examples.y) for examples in of_task.values()]
        x, y = (torch.cat(parts) for parts in zip(*of_task.values(), strict=True))
        if len(sizes) < 2 or max(sizes) < 2:
            raise MetaLensError(
                f"{name} needs 2 training tasks, one of them with 2 examples, to tell tasks from noise, got "
                f"{len(sizes)} with at most {max(sizes)}."
            )
        self.fit_rows(
            TrainingRows(x.flatten(1).numpy(), y.double().numpy(), np.repeat(np.arange(len(sizes)), sizes))
        )

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        self._check_targets(z, y)
        if len(self.noise) == 0:
            raise MetaLensError(f"{type(self).__name__} is not trained; give it to fit first.")
        return super().adapt_encoded(z, y)

    def _check_targets(self, z: Tensor, y: Tensor) -> None:
        if not y.is_floating_point():
            raise MetaLensError(
                f"{type(self).__name__} predicts numbers, got classes; use LogisticRegression or R2D2."
            )
        super().adapt_encoded(z, y)  # refuses another number of targets


def resize_when_loaded(module: nn.Module) -> None:
    """Let a module take saved buffers of any sizes, and of integers: only these know what was fitted."""
    module.register_load_state_dict_pre_hook(_make_room)


def _make_room(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    for name, buffer in module.named_buffers(recurse=False):
        if (saved := state_dict.get(f"{prefix}{name}")) is not None:
            dtype = buffer.dtype if saved.is_floating_point() else saved.dtype
            setattr(module, name, buffer.new_empty(saved.shape, dtype=dtype))
