"""Sums of two sine waves over inputs that differ from task to task."""

from __future__ import annotations

import numpy as np

from metalens.data.synthetic.curve import CurveDistribution, Functions


class Harmonic(CurveDistribution):
    """Harmonic regression tasks, harder and more diverse than `Sinusoid`.

    `y = a1 sin(w x + b1) + a2 sin(2 w x + b2) + e`, with `w ~ U[5, 7]`, `b ~ U[0, 2 pi]`, `a ~ N(0, 1)`,
    `x ~ N(mu, 1)`, `mu ~ U[-4, 4]`, `e ~ N(0, noise^2)`. The descriptors of a task are what its two waves are
    at x = 0, how fast they turn, and where they are seen: `(a1 cos b1, a1 sin b1, a2 cos b2, a2 sin b2, w,
    mu)`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        k_shot: support examples per task.
        n_query: query examples per task.
        n_train_tasks: `None` for unlimited training tasks, or the size of a fixed pool with fixed data;
            the published benchmark has 5000.
        noise: standard deviation of the noise on every target, in units of y.
        seed: see `TaskDistribution`.

    Raises:
        MetaLensError: a size is below 1, or the noise is negative.

    >>> Harmonic("test", k_shot=5).batch(range(3)).query.x.shape
    torch.Size([3, 15, 1])

    Source: A. Lacoste, B. Oreshkin and others, "Uncertainty in Multitask Transfer Learning", 2018,
    arXiv 1806.07528.
    """

    def draw_functions(self, rng: np.random.Generator, n: int) -> Functions:
        frequency = rng.uniform(5.0, 7.0, (n, 1, 1))
        phase1, phase2 = rng.uniform(0.0, 2.0 * np.pi, (2, n, 1, 1))
        amplitude1, amplitude2 = rng.standard_normal((2, n, 1, 1))
        center = rng.uniform(-4.0, 4.0, (n, 1, 1))

        def sample(size: int) -> np.ndarray:
            return center + rng.standard_normal((n, size, 1))

        def function(x: np.ndarray) -> np.ndarray:
            first = amplitude1 * np.sin(frequency * x + phase1)
            return first + amplitude2 * np.sin(2 * frequency * x + phase2)

        waves = ((amplitude1, phase1), (amplitude2, phase2))
        parts = [a * turn(b) for a, b in waves for turn in (np.cos, np.sin)]
        return sample, function, np.concatenate([*parts, frequency, center], axis=1)[..., 0]
