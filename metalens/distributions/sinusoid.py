"""Sine waves of varying amplitude and phase, the field's smallest regression benchmark."""

from __future__ import annotations

import numpy as np
import torch

from metalens.distributions.base import BlockDistribution, Split
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task


class Sinusoid(BlockDistribution):
    """Sine-wave regression tasks.

    `y = A sin(x - phi) + e`, with `A ~ U[0.1, 5]`, `phi ~ U[0, pi]`, `x ~ U[-5, 5]`,
    `e ~ N(0, noise^2)`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        k_shot: support examples per task.
        n_query: query examples per task.
        n_train_tasks: `None` for unlimited training tasks, or the size of a fixed pool with fixed data.
        noise: standard deviation of the noise on every target, in units of y.
        seed: see `TaskDistribution`.

    Raises:
        MetaLensError: a size is below 1, or the noise is negative.

    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> task.support.x.shape, task.query.y.shape
    (torch.Size([5, 1]), torch.Size([15, 1]))

    Source: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", 2017, arXiv 1703.03400.
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
        check_regression_sizes(k_shot, n_query, noise)
        self.k_shot, self.n_query, self.noise = k_shot, n_query, noise

    def draw(self, rng: np.random.Generator, n: int) -> Task:
        amplitude = rng.uniform(0.1, 5.0, (n, 1, 1))
        phase = rng.uniform(0.0, np.pi, (n, 1, 1))

        def examples(size: int) -> Examples:
            x = rng.uniform(-5.0, 5.0, (n, size, 1))
            y = amplitude * np.sin(x - phase) + self.noise * rng.standard_normal(x.shape)
            return as_float32(x, y)

        return Task(examples(self.k_shot), examples(self.n_query))


def as_float32(x: np.ndarray, y: np.ndarray) -> Examples:
    """Turn arrays into single-precision examples."""
    return Examples(torch.from_numpy(x).float(), torch.from_numpy(y).float())


def check_regression_sizes(k_shot: int, n_query: int, noise: float) -> None:
    """Refuse sizes below 1 and negative noise, by name."""
    for name, size in (("k_shot", k_shot), ("n_query", n_query)):
        if size < 1:
            raise MetaLensError(f"{name} must be at least 1, got {size}.")
    if noise < 0:
        raise MetaLensError(f"noise must be 0 or more, got {noise}.")
