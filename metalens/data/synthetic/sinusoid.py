"""Sine waves of varying amplitude and phase, the smallest regression benchmark of the field."""

import numpy as np

from metalens.data.synthetic.curve import CurveDistribution, Functions


class Sinusoid(CurveDistribution):
    """Sine-wave regression tasks.

    `y = A sin(x - phi) + e`, with `A ~ U[0.1, 5]`, `phi ~ U[0, pi]`, `x ~ U[-5, 5]`,
    `e ~ N(0, noise^2)`. The descriptors of a task are `(A cos phi, A sin phi)`: their distance is `sqrt(2)`
    times the root mean square difference of two sinusoids over a period.

    Args: see `CurveDistribution`.

    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> task.support.x.shape, task.query.y.shape
    (torch.Size([5, 1]), torch.Size([15, 1]))

    Source: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", 2017, arXiv 1703.03400.
    """

    def task_name(self, index: int) -> str:
        descriptors = self[index].descriptors
        if not len(descriptors):
            return str(index)
        a, b = descriptors.tolist()
        return f"{index} (A {np.hypot(a, b):.1f}, φ {np.arctan2(b, a):.1f})"

    def draw_functions(self, rng: np.random.Generator, n: int) -> Functions:
        amplitude = rng.uniform(0.1, 5.0, (n, 1, 1))
        phase = rng.uniform(0.0, np.pi, (n, 1, 1))

        def sample(size: int) -> np.ndarray:
            return rng.uniform(-5.0, 5.0, (n, size, 1))

        descriptors = np.concatenate([amplitude * np.cos(phase), amplitude * np.sin(phase)], axis=1)[..., 0]
        return sample, lambda x: amplitude * np.sin(x - phase), descriptors
