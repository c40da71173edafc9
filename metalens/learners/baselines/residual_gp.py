"""A global mean, and a Gaussian process of the residuals of each task."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metalens.errors import check_choice
from metalens.learners.baselines.fitted import TrainingRows
from metalens.learners.baselines.global_mean import is_binary
from metalens.learners.baselines.partial_pooling import NOISE_FLOOR
from metalens.learners.baselines.pooled_mean import Mean, PooledMean
from metalens.learners.baselines.reml import minimum

ResidualKernel = Literal["auto", "tanimoto", "rbf"]
Hyperparameters = dict[str, Tensor]

_LEARN_TASKS, _LEARN_ROWS = 200, 40  # at most, whose likelihood is maximized
_PRIORS = {"lengths": 2.0, "linear": 3.0}  # deviations of logarithms from their start
_SMALLEST = 1e-6  # noise, of the variance of the residuals


class ResidualGP(PooledMean):
    """Partial pooling of functions: one model of all tasks, and a Gaussian process of what it leaves in each.

    It is `PartialPooling` with, for numbers,

        k(x, x') = t^2 + a exp(-sum_j (x_j - x'_j)^2 / (2 l_j^2)) + sum_j v_j x_j x'_j

    or, for binary fingerprints, `t^2 + a <x, x'> / (||x||^2 + ||x'||^2 - <x, x'>)`: a level of the task, a
    smooth function and a line. The hyperparameters and the noise maximize the marginal likelihood of the
    residuals of the training tasks, each by a mean fitted to other tasks: five parts of whole tasks, each
    predicted by a model of the others. At most 40 examples of each of at most 200 tasks count. The logarithms
    of `l_j` and `v_j` have normal priors: around that of the root of the number of inputs, with deviation 2,
    and around -6, with deviation 3.

    Args:
        n_outputs: number of targets.
        mean: m, see `Shrunken`.
        kernel: `"tanimoto"` for fingerprints, `"rbf"`, or `"auto"`: the former if all inputs of the training
            tasks are 0 or 1.
        n_tasks: number of training tasks to draw; all examples of those of one name are used.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import Objective, ResidualGP, Sinusoid, fit
    >>> pooled = ResidualGP(n_outputs=1, mean="linear", n_tasks=50)
    >>> _ = fit(Objective(pooled), Sinusoid(), steps=1, meta_batch_size=1)
    >>> task = Sinusoid("test")[0]
    >>> mean, variance = pooled.predict_distribution(pooled(task.support).state, task.query.x)
    >>> mean.shape, bool((variance > 0).all())
    (torch.Size([15, 1]), True)

    Source: C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2.7 and 5.
    Deviations: any mean in place of a linear one; many tasks share the hyperparameters.
    """

    level: Tensor
    amplitude: Tensor
    lengths: Tensor
    linear: Tensor

    def __init__(
        self,
        n_outputs: int,
        *,
        mean: Mean = "boosting",
        kernel: ResidualKernel = "auto",
        n_tasks: int = 1000,
    ) -> None:
        super().__init__(n_outputs, mean=mean, n_tasks=n_tasks)
        check_choice(self, "kernel", kernel, ResidualKernel)
        self.kernel: ResidualKernel = kernel
        for name in ("level", "amplitude"):
            self.register_buffer(name, torch.zeros(0))  # (c,)
        for name in ("lengths", "linear"):
            self.register_buffer(name, torch.zeros(0, 0))  # (c, d); (c, 0) for Tanimoto's kernel

    def fit_residuals(self, rows: TrainingRows, residuals: np.ndarray) -> None:
        is_tanimoto = self.kernel == "tanimoto" or (self.kernel == "auto" and is_binary(rows.x))
        x, y, is_there = _padded(rows, residuals)
        found = [_learned(x, of_target, is_there, is_tanimoto) for of_target in y.unbind(2)]
        for name in ("level", "amplitude", "lengths", "linear", "noise"):
            setattr(self, name, torch.stack([hyper[name] for hyper in found]).to(self.noise))
        self.noise = torch.maximum(self.noise, self.noise.new_tensor(NOISE_FLOOR * rows.y.var(0)))

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        one, other = torch.from_numpy(a), torch.from_numpy(b)
        return torch.stack([_kernel(hyper, one, other) for hyper in self._by_target()]).numpy()

    def prior_variance(self, x: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(x)[:, None]
        return torch.stack([_kernel(hyper, rows, rows)[:, 0, 0] for hyper in self._by_target()]).numpy()

    def _by_target(self) -> list[Hyperparameters]:
        names = ("level", "amplitude", "lengths", "linear")
        parts = zip(*(getattr(self, name).cpu().double() for name in names), strict=True)
        return [dict(zip(names, of_target, strict=True)) for of_target in parts]


def _padded(rows: TrainingRows, residuals: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs `(t, n, d)` and residuals `(t, n, c)` of some tasks, and which examples are there."""
    rng = np.random.default_rng(0)
    tasks = rng.permutation(int(rows.tasks.max()) + 1)[:_LEARN_TASKS]
    drawn = [rng.permutation(np.flatnonzero(rows.tasks == task))[:_LEARN_ROWS] for task in tasks]
    n = max(map(len, drawn))
    x, y = np.zeros((len(tasks), n, rows.x.shape[1])), np.zeros((len(tasks), n, residuals.shape[1]))
    is_there = np.zeros((len(tasks), n), bool)
    for task, chosen in enumerate(drawn):
        x[task, : len(chosen)], y[task, : len(chosen)] = rows.x[chosen], residuals[chosen]
        is_there[task, : len(chosen)] = True
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(is_there)


def _learned(x: Tensor, y: Tensor, is_there: Tensor, is_tanimoto: bool) -> Hyperparameters:
    """Return the hyperparameters that maximize the marginal likelihood of residuals of a target, `(t, n)`."""
    scale = float(y[is_there].square().mean().sqrt()) or 1.0
    d = 0 if is_tanimoto else x.shape[2]
    start = {"level": [-1.0], "amplitude": [-1.0], "noise": [-1.0],
             "lengths": [math.log(x.shape[2]) / 2] * d, "linear": [-6.0] * d}  # fmt: skip
    sizes = [len(part) for part in start.values()]
    origin = torch.tensor([value for part in start.values() for value in part], dtype=torch.float64)
    similarity = _tanimoto(x, x) if is_tanimoto else None

    def hyperparameters(values: Tensor) -> Hyperparameters:
        return {name: part.exp() for name, part in zip(start, values.split(sizes), strict=True)}

    def loss(values: Tensor) -> Tensor:
        hyper = hyperparameters(values)
        both = is_there[:, :, None] & is_there[:, None, :]
        covariance = torch.where(both, _kernel(hyper, x, x, similarity), 0.0)
        noise = torch.where(is_there, hyper["noise"] + _SMALLEST, 1.0)
        cholesky = torch.linalg.cholesky(covariance + torch.diag_embed(noise))
        white = torch.linalg.solve_triangular(cholesky, (y / scale)[..., None], upper=False)
        moves = dict(zip(start, (values - origin).split(sizes), strict=True))
        prior = sum((moves[name] / deviation).square().sum() for name, deviation in _PRIORS.items())
        return (white.square().sum() + prior) / 2 + cholesky.diagonal(dim1=1, dim2=2).log().sum()

    found = hyperparameters(
        torch.from_numpy(minimum(loss, origin.numpy(), "ResidualGP", most=12.0, tolerance=1e-6))
    )
    variances = {name: scale**2 * value for name, value in found.items() if name != "lengths"}
    single = {name: variances[name][0] for name in ("level", "amplitude", "noise")}
    return {**variances, **single, "lengths": found["lengths"]}


def _kernel(hyper: Hyperparameters, a: Tensor, b: Tensor, similarity: Tensor | None = None) -> Tensor:
    """Return k at inputs `(..., n, d)` and `(..., m, d)`, `(..., n, m)`."""
    level, amplitude, lengths, linear = (hyper[name] for name in ("level", "amplitude", "lengths", "linear"))
    if len(lengths) == 0:
        return level + amplitude * (_tanimoto(a, b) if similarity is None else similarity)
    u, v = a / lengths, b / lengths
    squares = u.square().sum(-1)[..., :, None] + v.square().sum(-1)[..., None, :] - 2 * u @ v.mT
    return level + amplitude * torch.exp(-squares.clamp(min=0) / 2) + (a * linear) @ b.mT


def _tanimoto(a: Tensor, b: Tensor) -> Tensor:
    products = a @ b.mT
    unions = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - products
    return products / unions.clamp(min=torch.finfo(unions.dtype).tiny)
