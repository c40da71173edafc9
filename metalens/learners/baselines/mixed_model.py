"""The linear mixed model of all tasks."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metalens.errors import MetaLensError, check_choice
from metalens.learners.baselines.fitted import TrainingRows
from metalens.learners.baselines.partial_pooling import NOISE_FLOOR, PartialPooling, as_array
from metalens.learners.baselines.reml import MixedFit, MixedModelMoments, independent_columns

Slopes = Literal["auto", "all", "none"]

_MOST_COLUMNS = 64  # that vary within tasks, for slopes to be looked for
_MOST_TRIED = 8  # slopes at a time, those by which the likelihood rises fastest
_MOST_CORRELATED = 6  # random effects with a full covariance
_WORTH = 2.0  # of deviance for a variance or covariance, as in Akaike's criterion
_WITHIN = 1e-6  # of a column's variance: the share within tasks that makes it vary there


class MixedModel(PartialPooling):
    """The linear mixed model: a line that all tasks share, and random deviations of each task.

    `y_i = X_i b + Z_i u_i + e_i` for task i, with `u_i ~ N(0, D)` and `e_i ~ N(0, s^2 I)`. X has a column of
    ones and the inputs, Z the ones and the inputs with random slopes. D and s^2 have the maximum restricted
    likelihood (REML) of the training tasks, and b is the generalized least squares estimate. A new task gets
    the best linear unbiased prediction from its support, as in `PartialPooling` with `m(x) = x^T b` and
    `k(x, x') = z^T D z'`:

        f(x) = x^T b + z^T D Z^T (Z D Z^T + s^2 I)^-1 (y - X b)

    Without support examples it is `x^T b`. Of inputs that are combinations of others, and of constant ones,
    as many as needed have no fixed effect. D is diagonal, or a full matrix if that lowers the deviance (minus
    twice the log-likelihood) by more than 2 for each covariance; for more than 6 random effects it is
    diagonal. Each target has a model of its own.

    Args:
        n_outputs: number of targets.
        slopes: which inputs have random slopes: `"none"`; `"all"` that vary within tasks; or `"auto"`, those
            of them whose variance lowers the deviance of the diagonal model by more than 2. Up to 8 are
            tried, those by whose variance the deviance falls fastest; none among more than 64 inputs.
        n_tasks: number of training tasks to draw; all examples of those of one name are used.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import MixedModel, Objective, Sinusoid, fit
    >>> mixed = MixedModel(n_outputs=1, n_tasks=50)
    >>> _ = fit(Objective(mixed), Sinusoid(), steps=1, meta_batch_size=1)
    >>> mixed.effects.tolist(), mixed.covariances.shape  # of the intercept and of input 1
    ([0, 1], torch.Size([1, 2, 2]))

    Source: N. Laird, J. Ware, "Random-Effects Models for Longitudinal Data", Biometrics 38, 1982.
    Deviations: the choice of slopes and of D; variances of predictions do not count those of b, D and s^2.
    """

    coefficients: Tensor
    effects: Tensor
    covariances: Tensor

    def __init__(self, n_outputs: int, *, slopes: Slopes = "auto", n_tasks: int = 1000) -> None:
        super().__init__(n_outputs, n_tasks=n_tasks)
        check_choice(self, "slopes", slopes, Slopes)
        self.slopes: Slopes = slopes
        self.register_buffer("coefficients", torch.zeros(0, 0))  # (d + 1, c), of ones and inputs
        self.register_buffer("effects", torch.zeros(0, dtype=torch.int64))  # (q,), of the same columns
        self.register_buffer("covariances", torch.zeros(0, 0, 0))  # (c, q, q)

    def fit_rows(self, rows: TrainingRows) -> None:
        x = with_ones(rows.x)
        fixed = np.concatenate([[0], 1 + independent_columns(x[:, 1:])])
        if len(fixed) >= len(x):
            raise MetaLensError(
                f"MixedModel has {len(fixed) - 1} independent inputs and needs more examples than that, got "
                f"{len(x)} in all training tasks; use DeepKernelGP, or fewer inputs."
            )
        candidates = self._candidates(x, rows.tasks)
        q, c = len(candidates), self.n_outputs
        coefficients, covariances, noises = np.zeros((x.shape[1], c)), np.zeros((c, q, q)), np.zeros(c)
        for output, y in enumerate(rows.y.T):
            moments = MixedModelMoments.of(x[:, fixed], x[:, candidates], y - y.mean(), rows.tasks)
            chosen, found = self._fitted(moments)
            coefficients[fixed, output] = found.coefficients
            coefficients[0, output] += y.mean()
            covariances[np.ix_([output], chosen, chosen)] = found.covariance
            noises[output] = max(found.noise, NOISE_FLOOR * y.var())
        used = np.flatnonzero(covariances.any((0, 1)))
        used = used if len(used) else np.array([0])
        new = self.noise.new_tensor
        self.coefficients, self.noise = new(coefficients), new(noises)
        self.effects = torch.as_tensor(candidates[used], device=self.device)
        self.covariances = new(np.ascontiguousarray(covariances[:, used][:, :, used]))

    def mean(self, x: np.ndarray) -> np.ndarray:
        return with_ones(x) @ as_array(self.coefficients)

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._effects(a) @ as_array(self.covariances) @ self._effects(b).T

    def prior_variance(self, x: np.ndarray) -> np.ndarray:
        z = self._effects(x)
        return ((z @ as_array(self.covariances)) * z).sum(2)

    def _effects(self, x: np.ndarray) -> np.ndarray:
        return with_ones(x)[:, self.effects.cpu().numpy()]

    def _candidates(self, x: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """Return the columns that may have random effects: the ones, and inputs that vary within tasks."""
        if self.slopes == "none":
            return np.array([0])
        sizes = np.bincount(tasks)
        means = np.stack([np.bincount(tasks, column) / sizes for column in x.T], axis=1)
        within = ((x - means[tasks]) ** 2).mean(0)
        varying = np.flatnonzero(within > _WITHIN * x.var(0))
        if self.slopes == "auto" and len(varying) > _MOST_COLUMNS:
            return np.array([0])
        return np.concatenate([[0], varying])

    def _fitted(self, moments: MixedModelMoments) -> tuple[list[int], MixedFit]:
        """Return the candidates with random effects, and the fit of the model with them."""
        chosen = self._chosen(moments)
        some, n = moments.of_columns(chosen), len(chosen)
        diagonal = some.fit(correlated=False)
        if not 1 < n <= _MOST_CORRELATED:
            return chosen, diagonal
        full = some.fit(correlated=True, start=diagonal)
        is_worth_it = diagonal.deviance - full.deviance > _WORTH * n * (n - 1) / 2
        return chosen, full if is_worth_it else diagonal

    def _chosen(self, moments: MixedModelMoments) -> list[int]:
        """Return the candidates with random effects: all, or the ones and slopes that are worth it."""
        n = len(moments.scales)
        if self.slopes != "auto" or n == 1:
            return list(range(n))
        level = moments.of_columns([0]).fit(correlated=False)
        covariance = np.zeros((n, n))
        covariance[0, 0] = level.covariance.item()
        gains = -moments.deviance_gradient(covariance, level.noise)[1:]
        tried = [0, *(1 + place for place in np.argsort(-gains)[:_MOST_TRIED] if gains[place] > 0)]
        some = moments.of_columns(tried)
        found = some.fit(correlated=False)
        losses = [_loss_without(some, found, place) for place in range(1, len(tried))]
        return [0, *(column for column, loss in zip(tried[1:], losses, strict=True) if loss > _WORTH)]


def _loss_without(moments: MixedModelMoments, found: MixedFit, place: int) -> float:
    """Return by how much the deviance is larger if a random effect has no variance, the others as found."""
    covariance = found.covariance.copy()
    covariance[place, place] = 0.0
    return moments.deviance(covariance, found.noise) - found.deviance


def with_ones(x: np.ndarray) -> np.ndarray:
    """Return rows `[1, x]` in double precision."""
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)
