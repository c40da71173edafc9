"""Linear mixed models by restricted maximum likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CONSTANT = 1e-6  # of a column: the deviation, as a share of its largest number
_TOLERANCE = 1e-4  # of a column: the share of its length that other columns must leave
_MOST_ITERATIONS = 500
_SEARCH = {"most": 1e4, "tolerance": 1e-9}  # of the factor of D / s^2
_LEAST_UNIT = 0.05  # of a relative deviation at the start: a search from 0 stays there
_RSS_FLOOR = 1e-9  # of the sum of squares of the targets


class MixedFit(NamedTuple):
    """What restricted maximum likelihood finds, for p fixed and q random effects.

    Attributes:
        coefficients: the fixed effects by generalized least squares, `(p,)`.
        covariance: of the random effects of a task, `(q, q)`.
        noise: the variance of targets within a task.
        deviance: minus twice the restricted log-likelihood, up to a constant of the fixed effects.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    noise: float
    deviance: float


@dataclass(frozen=True)
class MixedModelMoments:
    """All that the likelihood of `y_i = X_i b + Z_i u_i + e_i` needs, with `u_i ~ N(0, D)`, `e ~ N(0, s^2)`.

    X is replaced by an orthonormal basis Q of its columns, `X = Q R`; columns of Z are divided by their root
    mean squares.

    Attributes:
        zz: `Z_i^T Z_i` of every task, `(t, q, q)`.
        zx: `Z_i^T Q_i`, `(t, q, p)`.
        zy: `Z_i^T y_i`, `(t, q)`.
        xy: `Q^T y`, `(p,)`.
        yy: `y^T y`.
        n: number of examples.
        triangle: R, `(p, p)`.
        scales: root mean squares of the columns of Z, `(q,)`.
    """

    zz: Tensor
    zx: Tensor
    zy: Tensor
    xy: Tensor
    yy: Tensor
    n: int
    triangle: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, z: np.ndarray, y: np.ndarray, tasks: np.ndarray) -> MixedModelMoments:
        """Return the moments of n examples: X `(n, p)` of full rank, Z `(n, q)`, y `(n,)`, tasks `(n,)`."""
        q, triangle = np.linalg.qr(x)
        scales = np.sqrt((z**2).mean(0))
        order = np.argsort(tasks, kind="stable")
        starts = np.flatnonzero(np.diff(tasks[order])) + 1  # of all tasks but the first
        zs, qs, ys = (np.split(part[order], starts) for part in (z / scales, q, y))
        zz, zx, zy = (
            torch.from_numpy(np.stack([zt.T @ of for zt, of in zip(zs, others, strict=True)]))
            for others in (zs, qs, ys)
        )
        xy, yy = torch.from_numpy(q.T @ y), torch.tensor(float(y @ y), dtype=torch.float64)
        return cls(zz, zx, zy, xy, yy, len(y), triangle, scales)

    def of_columns(self, columns: Sequence[int]) -> MixedModelMoments:
        """Return the moments of a model with some of the random effects."""
        c = list(columns)
        return MixedModelMoments(
            self.zz[:, c][:, :, c], self.zx[:, c], self.zy[:, c], self.xy, self.yy, self.n, self.triangle,
            self.scales[c],
        )  # fmt: skip

    def profile(self, relative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the deviance, the coefficients of Q and the noise, given `D / s^2`."""
        inner = torch.eye(len(relative), dtype=relative.dtype) + self.zz @ relative
        weight = torch.linalg.solve(inner.mT, relative)  # D (I + Z^T Z D)^-1 / s^2
        wx, wy = weight @ self.zx, (weight @ self.zy[..., None])[..., 0]
        p = len(self.xy)
        xx = torch.eye(p, dtype=relative.dtype) - self.zx.flatten(0, 1).T @ wx.flatten(0, 1)
        xy = self.xy - self.zx.flatten(0, 1).T @ wy.flatten()
        coefficients = torch.linalg.solve(xx, xy)
        squares = self.yy - (self.zy * wy).sum() - xy @ coefficients
        squares = squares.clamp(min=_RSS_FLOOR * float(self.yy) + np.finfo(float).tiny)
        logdets = torch.linalg.slogdet(inner).logabsdet.sum() + torch.linalg.slogdet(xx).logabsdet
        free = self.n - p
        return logdets + free * squares.log(), coefficients, squares / free

    def fit(self, *, correlated: bool, start: MixedFit | None = None) -> MixedFit:
        """Return the maximum of the restricted likelihood, with a full or a diagonal covariance D.

        The search is over a Cholesky factor of `D / s^2`, in which D may lose rank and never its sign; it
        starts from a diagonal one, by default 0.5 for columns of unit mean square, or else from another fit.
        """
        q = len(self.scales)
        units = torch.full((q,), 0.5, dtype=torch.float64)
        if start is not None:
            units = self._relative(start.covariance, start.noise).diagonal().sqrt().clamp(min=_LEAST_UNIT)
        rows, columns = np.tril_indices(q) if correlated else (np.arange(q),) * 2
        places = torch.from_numpy(rows), torch.from_numpy(columns)

        def relative(values: Tensor) -> Tensor:
            factor = torch.zeros(q, q, dtype=torch.float64).index_put(places, values)
            factor = units[:, None] * factor
            return factor @ factor.T

        first = np.where(rows == columns, 1.0, 0.0)
        values = minimum(lambda values: self.profile(relative(values))[0], first, "MixedModel", **_SEARCH)
        found = relative(torch.from_numpy(values))
        deviance, coefficients, noise = self.profile(found)
        covariance = float(noise) * found.numpy() / np.outer(self.scales, self.scales)
        fixed = np.linalg.solve(self.triangle, coefficients.numpy())
        return MixedFit(fixed, covariance, float(noise), float(deviance))

    def deviance(self, covariance: np.ndarray, noise: float) -> float:
        """Return the deviance at `D / s^2`, with the best coefficients and noise."""
        return float(self.profile(self._relative(covariance, noise))[0])

    def deviance_gradient(self, covariance: np.ndarray, noise: float) -> np.ndarray:
        """Return the derivative of the deviance by the relative variance of each random effect, `(q,)`."""
        relative = self._relative(covariance, noise).requires_grad_()
        (gradient,) = torch.autograd.grad(self.profile(relative)[0], relative)
        return gradient.diagonal().numpy()

    def _relative(self, covariance: np.ndarray, noise: float) -> Tensor:
        return torch.from_numpy(covariance * np.outer(self.scales, self.scales) / noise)


def minimum(
    function: Callable[[Tensor], Tensor], start: np.ndarray, owner: str, *, most: float, tolerance: float
) -> np.ndarray:
    """Return where a smooth function of a vector in double precision is least, by L-BFGS from a start.

    No number of the vector is larger than `most`, or smaller than its negative. The search ends where an
    iteration lowers the function by less than the tolerance, as a share of it; one that ends early is warned
    of in the name of its owner.
    """
    from scipy.optimize import minimize

    def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(values.copy()).requires_grad_()
        value = function(at)
        (gradient,) = torch.autograd.grad(value, at)
        return value.item(), gradient.numpy()

    found = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-most, most)] * len(start),
        options={"maxiter": _MOST_ITERATIONS, "ftol": tolerance, "gtol": 1e-5},
    )
    if not np.isfinite(found.fun) or found.nit >= _MOST_ITERATIONS:
        warnings.warn(
            f"{owner}: the likelihood was not maximized in {found.nit} iterations ({found.message}); its "
            "variances are rough, so look for inputs of very different sizes.",
            stacklevel=2,
        )
    return found.x


def independent_columns(x: np.ndarray) -> np.ndarray:
    """Return the columns of `(n, d)` to keep so that these and an intercept are independent, in order.

    >>> x = np.array([[1.0, 2.0, 5.0, 0.0], [2.0, 4.0, 5.0, 0.0], [3.0, 6.0, 5.0, 1.0]])
    >>> independent_columns(x).tolist()
    [1, 3]
    """
    from scipy.linalg import qr

    centered = x - x.mean(0)
    lengths = np.linalg.norm(centered, axis=0)
    varying = np.flatnonzero(lengths > _CONSTANT * np.abs(x).max(0, initial=0) * len(x) ** 0.5)
    if len(varying) == 0:
        return varying
    triangle, order = qr(centered[:, varying] / lengths[varying], mode="r", pivoting=True)
    rank = int((np.abs(triangle.diagonal()) > _TOLERANCE).sum())
    return np.sort(varying[order[:rank]])
