"""Sums of two sine waves over inputs that differ from task to task."""

import numpy as np

from metalens.data.synthetic.curve import CurveDistribution, Functions


class Harmonic(CurveDistribution):
    """Harmonic regression tasks, harder and more diverse than `Sinusoid`.

    `y = a1 sin(w x + b1) + a2 sin(2 w x + b2) + e`, with `w ~ U[5, 7]`, `b ~ U[0, 2 pi]`, `a ~ N(0, 1)`,
    `x ~ N(mu, 1)`, `mu ~ U[-4, 4]`, `e ~ N(0, noise^2)`. The descriptors of a task are the phasors of its two
    waves, the frequency and the center: `(a1 cos b1, a1 sin b1, a2 cos b2, a2 sin b2, w, mu)`.

    Args: see `CurveDistribution`. The published benchmark has `n_train_tasks=5000`.

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
