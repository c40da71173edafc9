"""A Gaussian process whose prior is learned from the training tasks."""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError, check_choice, check_positive
from metalens.learners.base import State
from metalens.learners.baselines.base import Baseline
from metalens.learners.baselines.fitted import resize_when_loaded
from metalens.learners.baselines.gaussian_process import PlainKernel
from metalens.learners.baselines.task_covariance import (
    Kernels,
    Related,
    TaskRows,
    fit_kernels,
    learn,
    start_kernels,
    weights,
)
from metalens.learners.classification import indicator_targets
from metalens.tasks import Examples

_MOST_TASKS = 500  # of different names
_BUFFERS = ("points", "shared", "own", "level_and_noise", "units", "mean_weights", "weights")


class MultiTaskGP(Baseline):
    """A Gaussian process for each task, with a mean and a covariance learned from the training tasks.

    `f_t ~ GP(m, k)`, `y = f_t(x) + e`. Of N distinct training inputs X, `m(x) = s(x, X) S^-1 m(X)` and

        k(x, x') = k_0(x, x') + k_0(x, X) K_0^-1 (K - K_0) K_0^-1 k_0(X, x')

    with `k_0(x, x') = c + a h(x, x')`, and K the covariance of the functions of tasks on X. So inputs on
    which the training tasks went together go together in a new task, and elsewhere k is `k_0`. For real
    inputs h is `exp(-sum_i (x_i - x'_i)^2 / (2 l_i^2))` plus a linear kernel, with a length scale and a slope
    variance for each input; for fingerprints it is the Tanimoto similarity.

    `fit` learns it when training begins, in two steps. The values of `k_0`, of the kernel s of what all tasks
    share, and of the noise maximize the likelihood of `shared + own + noise`, before any function of a task
    is known. Then m(X) is the posterior mean of what is shared, and K follows by the EM algorithm from the
    posteriors `N(u_j, C_j)` of what is task j's own, under an inverse Wishart prior around `k_0`:

        K = (strength K_0 + sum_j (u_j u_j^T + C_j)) / (strength + number of tasks)

    It keeps the inputs X, which are rows of the training data, without their targets; they are saved with it.
    An empty support is predicted by m. The outputs are independent; for classes they are columns of ones and
    zeros. Without training tasks it predicts the mean of the support, and 0 without any.

    Args:
        n_outputs: number of targets, or of classes of a task.
        kernel: h: `"tanimoto"`, `"rbf"`, or `"auto"`: the former if all training inputs are 0 or 1.
        strength: how many tasks the prior of the covariance counts as.
        relations: of tasks to each other. `"learned"` as above; as controls `"equal"`, `K = K_0`: tasks share
            m, and beyond that know nothing of each other; and `"none"`, `m = 0` as well: a process of each
            task alone, whose kernel has values for all tasks.
        n_tasks: number of training tasks to draw; examples of tasks of one name are put together.
        n_points: N at most: those of most tasks, then at random. Memory grows with its square.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import MultiTaskGP, Objective, Sinusoid, fit
    >>> process = MultiTaskGP(n_outputs=1, n_tasks=8)
    >>> _ = fit(Objective(process), Sinusoid(), steps=1, meta_batch_size=1)
    >>> task = Sinusoid("test")[0]
    >>> model = process(task.support)
    >>> mean, variance = process.predict_distribution(model.state, task.query.x)
    >>> bool((variance > 0).all()), torch.equal(mean, model(task.query.x))
    (True, True)

    Source: A. Schwaighofer, V. Tresp, K. Yu, "Learning Gaussian Process Kernels via Hierarchical Bayes",
    2004. Deviations: kernels of their own for the mean and the covariance, with values from the marginal
    likelihood; the mean is not updated by EM; at most N training inputs are used.
    """

    min_support = 0
    points: Tensor
    shared: Tensor
    own: Tensor
    level_and_noise: Tensor
    units: Tensor
    mean_weights: Tensor
    weights: Tensor

    def __init__(
        self,
        n_outputs: int,
        *,
        kernel: PlainKernel = "auto",
        strength: float = 10.0,
        relations: Related = "learned",
        n_tasks: int = 1500,
        n_points: int = 2048,
    ) -> None:
        super().__init__(n_outputs)
        if kernel not in get_args(PlainKernel):
            raise MetaLensError(f"MultiTaskGP: kernel must be auto, tanimoto or rbf, got {kernel!r}.")
        check_sizes(n_tasks=n_tasks, n_points=n_points)
        check_positive(self, strength=strength)
        check_choice(self, "relations", relations, Related)
        self.kernel: PlainKernel = kernel
        self.relations: Related = relations
        self.strength, self.n_tasks, self.n_points = strength, n_tasks, n_points
        for name in _BUFFERS:
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        resize_when_loaded(self)

    def prepare(self, tasks: TaskDistribution) -> None:
        examples: dict[str, list[Examples]] = defaultdict(list)
        for number in range(self.n_tasks):
            name = tasks.task_name(number)
            if name in examples or len(examples) < _MOST_TASKS:
                examples[name] += tasks[number][:2]
        parts = [self._distinct(of_task) for of_task in examples.values()]
        x, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        task = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part[0]) for part in parts]))
        points, places = _points(x, self.n_points)
        is_binary = bool(((x == 0) | (x == 1)).all())
        start = start_kernels(
            x.shape[1], tanimoto=self.kernel == "tanimoto" or (self.kernel == "auto" and is_binary)
        )
        of_outputs = [self._learned(x, y, task, points, places, start) for y in targets.T]
        learned = [torch.stack(of_buffer) for of_buffer in zip(*of_outputs, strict=True)]
        for name, value in zip(_BUFFERS, [points, *learned], strict=True):
            setattr(self, name, value.to(self.device))

    def predict_distribution(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of noisy targets at the inputs `(n, *input_shape)`, each `(n, c)`.

        The variance, in squared units of y, is that of one new observation: of the process plus the noise.

        Raises:
            MetaLensError: it has not been fitted to training tasks.
        """
        if len(self.points) == 0:
            raise MetaLensError("MultiTaskGP has no variance before training; call fit with training tasks.")
        support, new = (inputs.detach().flatten(1).double().cpu() for inputs in (state["x"], x))
        targets = indicator_targets(state["y"], state["x"], self.n_outputs).detach().double().cpu()
        both = [self._conditioned(number, support, y, new, spread=True) for number, y in enumerate(targets.T)]
        mean, variance = (torch.stack(part, dim=1) for part in zip(*both, strict=True))
        return mean.to(self.device, self.dtype), variance.to(self.device, self.dtype)

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        targets = np.eye(self.n_outputs)[y] if classes else y
        if len(self.points) == 0:
            mean = targets.mean(0) if len(targets) else np.zeros(self.n_outputs)
            return np.repeat(mean[None], len(new_x), axis=0)
        support, new = (torch.from_numpy(inputs).double() for inputs in (x, new_x))
        columns = enumerate(torch.from_numpy(targets).double().T)
        means = [self._conditioned(number, support, column, new)[0] for number, column in columns]
        return torch.stack(means, dim=1).numpy()

    def _distinct(self, of_task: list[Examples]) -> tuple[Tensor, Tensor]:
        """Return the distinct examples of a task: inputs, and targets as numbers."""
        x, y = (torch.cat(part) for part in zip(*of_task, strict=True))
        inputs = x.flatten(1).double()
        targets = indicator_targets(y, inputs, self.n_outputs).double()
        rows = torch.cat([inputs, targets], dim=1).unique(dim=0)
        return rows[:, : -self.n_outputs], rows[:, -self.n_outputs :]

    def _learned(
        self, x: Tensor, y: Tensor, task: Tensor, points: Tensor, places: np.ndarray, start: Kernels
    ) -> tuple[Tensor, ...]:
        """Return all buffers but the points, for one output."""
        units = torch.stack([y.mean(), y.std(correction=0)])
        y = (y - units[0]) / units[1].clamp(min=torch.finfo(y.dtype).tiny)
        shares = self.relations != "none"
        kernels = fit_kernels(x, y, task, start, np.random.default_rng(0), shares=shares)
        rows = []
        for number in range(int(task[-1]) + 1):
            of_task = (task == number).numpy() & (places >= 0)
            rows.append(TaskRows(places[of_task], y.numpy()[of_task]))
        mean, covariance = learn(points, rows, kernels, self.strength, self.relations)
        prior = kernels.of_task(points, points)
        right = weights(prior, torch.from_numpy(covariance) - prior)
        return (
            kernels.shared,
            kernels.own,
            torch.stack([kernels.level, kernels.noise]),
            units,
            weights(kernels.of_all(points, points), torch.from_numpy(mean).unsqueeze(1)).squeeze(1),
            weights(prior, right.T),
        )

    def _conditioned(
        self, number: int, x: Tensor, y: Tensor, new: Tensor, *, spread: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance of an output's new targets, `(n,)`, given the support.

        The variance takes most of the time; without `spread` it is empty.
        """
        points, shared, own, (level, noise), (mean, unit), mean_weights, correction = (
            getattr(self, name).double().cpu()[... if name == "points" else number] for name in _BUFFERS
        )
        kernels = Kernels(shared, own, level, noise)
        x_cross, new_cross = (kernels.of_task(inputs, points) for inputs in (x, new))
        x_mean, new_mean = (kernels.of_all(inputs, points) @ mean_weights for inputs in (x, new))
        s = noise.exp()
        corrected = x_cross @ correction
        covariance = kernels.of_task(x, x) + corrected @ x_cross.T + s * torch.eye(len(x), dtype=x.dtype)
        cross = kernels.of_task(x, new) + corrected @ new_cross.T
        residuals = (y - mean) / unit.clamp(min=torch.finfo(y.dtype).tiny) - x_mean
        found = mean + unit * (new_mean + cross.T @ torch.linalg.solve(covariance, residuals))
        if not spread:
            return found, found[:0]
        prior = kernels.variance_of_task(new) + ((new_cross @ correction) * new_cross).sum(1)
        variance = (prior - (torch.linalg.solve(covariance, cross) * cross).sum(0)).clamp(min=0) + s
        return found, unit.square() * variance


def _points(x: Tensor, most: int) -> tuple[Tensor, np.ndarray]:
    """Return the distinct inputs with most rows, and the place of each row among them, -1 for none."""
    distinct, places, counts = x.unique(dim=0, return_inverse=True, return_counts=True)
    ties = np.random.default_rng(0).random(len(distinct))
    chosen = np.lexsort((ties, -counts.numpy()))[:most]
    renumbered = np.full(len(distinct), -1)
    renumbered[chosen] = np.arange(len(chosen))
    return distinct[chosen], renumbered[places.numpy()]
