"""What the known rows of a task say about the residuals of a model of all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from tools.tables.design import Design
from tools.tables.single import tanimoto

MOST_TASKS, MOST_ROWS = 200, 40  # of each, from which a process learns
LEAST_ROWS = 5
JITTER = 1e-4  # of the noise's variance, so that equal rows have a solution
N_NODES = 20  # of Gauss-Hermite quadrature


def level_variances(residuals: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the variances of the means of tasks and of rows in a task, by the analysis of variance.

    Source: S. R. Searle, G. Casella, C. E. McCulloch, "Variance Components", 1992, section 3.6.
    """
    of_task = pd.Series(residuals).groupby(groups)
    n, means = of_task.size().to_numpy(), of_task.mean().to_numpy()
    within = float(((residuals - of_task.transform("mean")) ** 2).sum() / (n.sum() - len(n)))
    of_means = float((n * (means - residuals.mean()) ** 2).sum() / (len(n) - 1))
    size = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    return max((of_means - within) / size, 0.0), within


def shrunken_mean(residuals: np.ndarray, between: float, within: float) -> float:
    """Return the best linear unbiased prediction of a task's mean residual."""
    n = len(residuals)
    return float(n * between / (n * between + within) * residuals.mean()) if between > 0 else 0.0


def logit_variance(y: np.ndarray, logits: np.ndarray, groups: np.ndarray) -> float:
    """Return the variance of normal offsets of tasks with the largest likelihood of their classes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_NODES)
    sign = 2 * y - 1
    codes = pd.factorize(groups)[0]

    def surprise(log_variance):
        offsets = np.exp(log_variance / 2) * nodes
        of_rows = -np.logaddexp(0, -sign[:, None] * (logits[:, None] + offsets))
        of_tasks = pd.DataFrame(of_rows).groupby(codes).sum().to_numpy()
        return -np.logaddexp.reduce(of_tasks + np.log(weights), axis=1).sum()

    return float(np.exp(minimize_scalar(surprise, bounds=(-8, 4), method="bounded").x))


def offset(y: np.ndarray, logits: np.ndarray, variance: float) -> float:
    """Return the most probable offset of a task's log odds, given its classes and a normal prior."""

    def slope(value):
        return np.sum(y - 1 / (1 + np.exp(-logits - value))) - value / variance

    reach = variance * len(y) + 1
    return float(brentq(slope, -reach, reach))


@dataclass(frozen=True)
class ResidualProcess:
    """A Gaussian process of the residuals of a task: a level, a smooth and a linear part, and noise.

    `k(x, x') = level + smooth s(x, x') + x^T diag(linear) x'`, with a squared exponential kernel s of one
    length for each input, or Tanimoto's for molecules, without a linear part. Its parameters have the largest
    likelihood of the residuals of the training tasks, with normal priors of the logarithms.
    """

    parameters: dict[str, Tensor]  # logarithms
    scale: float
    molecules: bool

    @classmethod
    def fit(cls, design: Design, x: np.ndarray, residuals: np.ndarray, groups: np.ndarray) -> Self:
        """Learn the parameters from the residuals of the training tasks."""
        usual = 0.5 * np.log(x.shape[1])
        start = {name: torch.tensor(-1.0) for name in ("level", "smooth", "noise")}
        if not design.molecules:
            start |= {"lengths": torch.full((x.shape[1],), usual), "linear": torch.full((x.shape[1],), -6.0)}
        found = {name: value.double().requires_grad_() for name, value in start.items()}
        process = cls(found, float(residuals.std()) or 1.0, design.molecules)
        inputs, values, real = _padded(x, residuals / process.scale, groups)
        similar = torch.from_numpy(np.stack([tanimoto(one, one) for one in inputs.numpy()]))
        optimizer = torch.optim.LBFGS(found.values(), max_iter=60, line_search_fn="strong_wolfe")

        def loss():
            optimizer.zero_grad()
            kernel = process._kernel(inputs, inputs, similar) * (real[:, :, None] & real[:, None, :])
            noise = torch.where(real, found["noise"].exp() + JITTER, 1.0)  # padding is independent, and 0
            factor = torch.linalg.cholesky(kernel + torch.diag_embed(noise))
            white = torch.linalg.solve_triangular(factor, values[..., None], upper=False)
            total = white.square().sum() / 2 + factor.diagonal(dim1=-2, dim2=-1).log().sum()
            for name, value in found.items():
                weight = 0.5 if name == "lengths" else 0.05
                total = total + weight * (value - start[name]).square().sum()
            total.backward()
            return total

        optimizer.step(loss)
        return cls({name: value.detach() for name, value in found.items()}, process.scale, process.molecules)

    def __call__(self, x: np.ndarray, residuals: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Return the expected residuals of new rows of a task."""
        one, other = torch.from_numpy(x), torch.from_numpy(new)
        similar = [torch.from_numpy(tanimoto(a, x)) if self.molecules else None for a in (x, new)]
        noise = self.parameters["noise"].exp() + JITTER
        known = self._kernel(one, one, similar[0]) + noise * torch.eye(len(x), dtype=torch.float64)
        weights = torch.linalg.solve(known, torch.from_numpy(residuals / self.scale))
        return (self._kernel(other, one, similar[1]) @ weights).numpy() * self.scale

    def _kernel(self, a: Tensor, b: Tensor, similar: Tensor | None) -> Tensor:
        p = {name: value.exp() for name, value in self.parameters.items()}
        if self.molecules:
            assert similar is not None
            return p["level"] + p["smooth"] * similar
        u, v = a / p["lengths"], b / p["lengths"]
        squares = u.square().sum(-1)[..., :, None] + v.square().sum(-1)[..., None, :] - 2 * u @ v.mT
        return p["level"] + p["smooth"] * (-squares.clamp(min=0) / 2).exp() + (a * p["linear"]) @ b.mT


def _padded(x: np.ndarray, residuals: np.ndarray, groups: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs and residuals of some tasks, `(T, n, d)` and `(T, n)`, and which of them are real."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(groups == name))[:MOST_ROWS] for name in np.unique(groups)]
    rows = [of_task for of_task in rows if len(of_task) >= LEAST_ROWS]
    rows = [rows[place] for place in rng.permutation(len(rows))[:MOST_TASKS]]
    n = max(map(len, rows))
    inputs, values = np.zeros((len(rows), n, x.shape[1])), np.zeros((len(rows), n))
    real = np.arange(n) < np.array([len(of_task) for of_task in rows])[:, None]
    inputs[real], values[real] = x[np.concatenate(rows)], residuals[np.concatenate(rows)]
    return torch.from_numpy(inputs), torch.from_numpy(values), torch.from_numpy(real)
