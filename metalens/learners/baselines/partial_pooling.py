"""The base of the baselines that pool tasks in part: what all share, and a Gaussian process of the rest."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from metalens.learners.base import State
from metalens.learners.baselines.fitted import FittedBaseline

NOISE_FLOOR = 1e-6  # of the variance of the training targets: equations stay solvable


class PartialPooling(FittedBaseline):
    """A mean that all tasks share, and a Gaussian process of how a task deviates, both from training tasks.

    `f(x) = m(x) + g(x)` with `g ~ GP(0, k)` for every task and `y = f(x) + e`, `e ~ N(0, s^2)`. With
    `C = k(X, X) + s^2 I` and `k_x = k(X, x)` for the s support inputs X, prediction and variance are

        mean(x) = m(x) + k_x^T C^-1 (y - m(X))
        var(x) = k(x, x) - k_x^T C^-1 k_x + s^2

    Without support examples these are `m(x)` and `k(x, x) + s^2`. The c targets are independent. A subclass
    defines `fit_rows`, `mean`, `covariance` and `prior_variance`.

    Args:
        n_outputs: number of targets.
        n_tasks: see `FittedBaseline`.
    """

    @abstractmethod
    def mean(self, x: np.ndarray) -> np.ndarray:
        """Return m at inputs `(n, d)`, `(n, c)`."""

    @abstractmethod
    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return k at two sets of inputs, `(c, n, m)`."""

    @abstractmethod
    def prior_variance(self, x: np.ndarray) -> np.ndarray:
        """Return `k(x, x)` of each input, `(c, n)`."""

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        return self._posterior(x, y, new_x)[0]

    def predict_distribution(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of noisy targets at the inputs `(n, *input_shape)`, each `(n, c)`.

        The variance, in squared units of y, is that of one new observation: of the process plus the noise.
        """
        old_x, new_x = (part.detach().flatten(1).cpu().numpy() for part in (state["x"], x))
        found = self._posterior(old_x, state["y"].detach().cpu().numpy(), new_x)
        mean, variance = (torch.as_tensor(part, dtype=self.dtype, device=self.device) for part in found)
        return mean, variance

    def _posterior(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, new_x = (part.astype(float) for part in (x, y, new_x))
        noise = as_array(self.noise)[:, None]
        total = self.covariance(x, x) + noise[..., None] * np.eye(len(x))
        cross = self.covariance(x, new_x)
        residuals = (y - self.mean(x)).T[..., None]
        solved = np.linalg.solve(total, np.concatenate([residuals, cross], axis=2))
        deviation = (cross * solved[..., :1]).sum(1)
        variance = self.prior_variance(new_x) - (cross * solved[..., 1:]).sum(1) + noise
        return self.mean(new_x) + deviation.T, variance.T


def as_array(buffer: Tensor) -> np.ndarray:
    """Return a buffer as an array in double precision."""
    return buffer.detach().cpu().double().numpy()
