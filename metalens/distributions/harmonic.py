"""Sums of two sine waves over inputs that differ from task to task."""

from __future__ import annotations

import numpy as np

from metalens.distributions.base import BlockDistribution, Split
from metalens.distributions.sinusoid import as_float32, check_regression_sizes
from metalens.tasks import Examples, Task


class Harmonic(BlockDistribution):
    """Harmonic regression tasks, harder and more diverse than `Sinusoid`.

    `y = a1 sin(w x + b1) + a2 sin(2 w x + b2) + e`, with `w ~ U[5, 7]`, `b ~ U[0, 2 pi]`, `a ~ N(0, 1)`,
    `x ~ N(mu, 1)`, `mu ~ U[-4, 4]`, `e ~ N(0, noise^2)`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        k_shot: support examples per task.
        n_query: query examples per task.
        n_train_tasks: size of the fixed pool of training tasks, or `None` for no limit.
        noise: standard deviation of the noise on every target, in units of y.
        seed: see `TaskDistribution`.

    Raises:
        MetaLensError: a size is below 1, or the noise is negative.

    >>> Harmonic("test", k_shot=5).batch(range(3)).query.x.shape
    torch.Size([3, 15, 1])

    Source: A. Lacoste, B. Oreshkin and others, "Uncertainty in Multitask Transfer Learning", 2018,
    arXiv 1806.07528, as used for the 5,000-task benchmark of deep-kernel methods.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        k_shot: int = 10,
        n_query: int = 15,
        n_train_tasks: int | None = 5000,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed, n_train_tasks=n_train_tasks)
        check_regression_sizes(k_shot, n_query, noise)
        self.k_shot, self.n_query, self.noise = k_shot, n_query, noise

    def draw(self, rng: np.random.Generator, n: int) -> Task:
        frequency = rng.uniform(5.0, 7.0, (n, 1, 1))
        phases = rng.uniform(0.0, 2.0 * np.pi, (2, n, 1, 1))
        amplitudes = rng.standard_normal((2, n, 1, 1))
        center = rng.uniform(-4.0, 4.0, (n, 1, 1))

        def examples(size: int) -> Examples:
            x = center + rng.standard_normal((n, size, 1))
            y = sum(
                a * np.sin(multiple * frequency * x + b)
                for multiple, a, b in zip((1, 2), amplitudes, phases, strict=True)
            )
            return as_float32(x, y + self.noise * rng.standard_normal(x.shape))

        return Task(examples(self.k_shot), examples(self.n_query))
