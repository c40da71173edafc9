"""Sine waves in planted groups, for relations whose truth is known."""

import math

import numpy as np

from metalens.data.base import Split
from metalens.data.synthetic.curve import CurveDistribution, Functions
from metalens.errors import MetaLensError


class ClusteredSinusoid(CurveDistribution):
    """Sine-wave regression tasks in groups: tasks of a group are alike, groups are equally far apart.

    A task of group g is `y = a sin(x) + b cos(x) + e`, `x ~ U[-5, 5]`, `e ~ N(0, noise^2)`, with

        (a, b) = amplitude (cos t_g, sin t_g) + spread z,    t_g = t_0 + 2 pi g / G,    z ~ N(0, 1)^2

    The seed draws `t_0`, the same for all splits: test tasks are new tasks of the same groups. The
    descriptors of a task are its group, one-hot.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        n_groups: G.
        spread: standard deviation of a and b within a group, in units of y; with 0 all tasks of a group are
            the same function.
        amplitude: of the wave in the middle of a group, in units of y. Neighboring groups are
            `2 amplitude sin(pi / G)` apart in (a, b).

    Further settings: `k_shot`, `n_query`, `n_train_tasks`, `noise`, `seed`: see `CurveDistribution`.

    Raises:
        MetaLensError: a size is out of range.

    >>> tasks = ClusteredSinusoid("test", n_groups=3, k_shot=5).batch(range(4))
    >>> tasks.support.x.shape, tasks.descriptors.shape
    (torch.Size([4, 5, 1]), torch.Size([4, 3]))

    Source: none; made for tests of relations and for theory.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        n_groups: int = 4,
        spread: float = 0.3,
        amplitude: float = 3.0,
        k_shot: int = 10,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            split, k_shot=k_shot, n_query=n_query, n_train_tasks=n_train_tasks, noise=noise, seed=seed
        )
        if n_groups < 2:
            raise MetaLensError(f"n_groups must be at least 2, got {n_groups}.")
        for name, size in (("spread", spread), ("amplitude", amplitude)):
            if not 0 <= size < math.inf:
                raise MetaLensError(f"{name} must be 0 or more and finite, got {size}.")
        self.n_groups, self.spread, self.amplitude = n_groups, spread, amplitude
        self._first_angle = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi)

    def task_name(self, index: int) -> str:
        descriptors = self[index].descriptors
        return f"{index} (group {int(descriptors.argmax())})" if len(descriptors) else str(index)

    def draw_functions(self, rng: np.random.Generator, n: int) -> Functions:
        group = rng.integers(self.n_groups, size=n)
        angle = self._first_angle + 2.0 * np.pi * group / self.n_groups
        middle = self.amplitude * np.stack([np.cos(angle), np.sin(angle)])
        a, b = (middle + self.spread * rng.standard_normal((2, n)))[..., np.newaxis, np.newaxis]

        def sample(size: int) -> np.ndarray:
            return rng.uniform(-5.0, 5.0, (n, size, 1))

        return sample, lambda x: a * np.sin(x) + b * np.cos(x), np.eye(self.n_groups)[group]
