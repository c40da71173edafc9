"""Regression of random functions of one variable."""

import math
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch

from metalens.data.base import BlockDistribution, Split
from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

Sampler = Callable[[int], np.ndarray]  # number of points -> inputs (n_tasks, points, 1)
Function = Callable[[np.ndarray], np.ndarray]  # inputs -> true values of the same shape
Functions = tuple[Sampler, Function] | tuple[Sampler, Function, np.ndarray]  # descriptors (n_tasks, p)


class CurveDistribution(BlockDistribution):
    """Regression of random functions of one variable: `y = f(x) + e`, `e ~ N(0, noise^2)`.

    A subclass writes `draw_functions`. The support of a task does not depend on `n_query`, nor its inputs
    on `noise`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        k_shot: support examples per task.
        n_query: query examples per task.
        n_train_tasks: `None` for unlimited training tasks, or the size of a fixed pool with fixed data.
        noise: standard deviation of the noise on every target, in units of y.
        seed: see `TaskDistribution`.

    Raises:
        MetaLensError: a size is below 1, or the noise is negative.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        k_shot: int = 10,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed, n_train_tasks=n_train_tasks)
        check_sizes(k_shot=k_shot, n_query=n_query)
        if not 0 <= noise < math.inf:
            raise MetaLensError(f"noise must be 0 or more and finite, got {noise}.")
        self.k_shot, self.n_query, self.noise = k_shot, n_query, noise

    @abstractmethod
    def draw_functions(self, rng: np.random.Generator, n: int) -> Functions:
        """Draw n functions; return a sampler of inputs, the functions and, if known, their descriptors."""

    def draw(self, rng: np.random.Generator, n: int) -> Task:
        sample, function, *descriptors = self.draw_functions(rng, n)

        def examples(size: int) -> Examples:
            x = sample(size)
            y = function(x) + self.noise * rng.standard_normal(x.shape)
            return Examples(torch.from_numpy(x).float(), torch.from_numpy(y).float())

        known = [torch.from_numpy(of_all).float() for of_all in descriptors]
        return Task(examples(self.k_shot), examples(self.n_query), *known)
