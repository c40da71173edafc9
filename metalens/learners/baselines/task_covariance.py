"""The mean and the covariance of functions of tasks, learned from tasks: empirical Bayes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Related = Literal["learned", "equal", "none"]  # relations of tasks to each other

_JITTER = 1e-5  # of the mean prior variance: smooth kernels are singular
_STEPS, _LR, _ROWS, _ROWS_OF_TASK = 60, 0.1, 600, 30  # of the search for hyperparameters
_EM_ROUNDS = 5
_FEW_ROWS = 2  # for each point: more are put together first


class Kernels(NamedTuple):
    """What is shared by all tasks and what is a task's own, before any covariance is learned.

    Both are `a h(x, x') + sum_i v_i x_i x'_i`, the second with a level that differs between tasks added. All
    values are logarithms.
    """

    shared: Tensor  # a, and for real inputs d length scales and d values v
    own: Tensor
    level: Tensor
    noise: Tensor

    def of_all(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the covariance of what tasks share, `(n, m)`."""
        return _kernel(self.shared, a, b)

    def of_task(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the covariance of what is a task's own, `(n, m)`."""
        return self.level.exp() + _kernel(self.own, a, b)

    def variance_of_task(self, a: Tensor) -> Tensor:
        """Return the diagonal of `of_task(a, a)`, `(n,)`."""
        amplitude, squares = self.own[0].exp(), a.square()
        if len(self.own) == 1:
            return self.level.exp() + amplitude * squares.any(1)
        return self.level.exp() + amplitude + squares @ self.own[1:].exp().chunk(2)[1]


class TaskRows(NamedTuple):
    """Targets of a task, at places among the points."""

    places: np.ndarray
    y: np.ndarray


class Learned(NamedTuple):
    """Mean `(M,)` and covariance `(M, M)` of the functions of tasks at M points."""

    mean: np.ndarray
    covariance: np.ndarray


def start_kernels(n_inputs: int, *, tanimoto: bool) -> Kernels:
    """Return kernels with usual values, for inputs of unit variance and targets of unit variance."""
    third = torch.tensor([1 / 3], dtype=torch.float64).log()
    parts = [third]
    if not tanimoto:
        parts += [torch.full((n_inputs,), np.log(n_inputs) / 2), torch.full((n_inputs,), -4.0)]
    values = torch.cat([part.double() for part in parts])
    return Kernels(values, values, third[0], third[0])


def fit_kernels(
    x: Tensor, y: Tensor, task: Tensor, start: Kernels, rng: np.random.Generator, *, shares: bool = True
) -> Kernels:
    """Maximize the marginal likelihood of rows `y = shared(x) + own_task(x) + noise`, with weak priors.

    Args:
        x: inputs of all rows, `(N, d)`.
        y: their targets, `(N,)`, of mean 0 and variance 1.
        task: the number of each row's task, `(N,)`.
        start: where the search starts, and where the weak priors have their means.
        rng: selects the rows of each part of the search.
        shares: whether tasks share anything; otherwise `shared` is 0, and its kernel stays at its start.
    """
    values = Kernels(*(part.clone().requires_grad_() for part in start))
    optimizer = torch.optim.Adam(values, lr=_LR)
    rows = _some(task, rng)
    for step in range(_STEPS):
        if step % 10 == 9:
            rows = _some(task, rng)
        some, of = x[rows], task[rows]
        same = of.unsqueeze(1) == of
        covariance = same * values.of_task(some, some)
        if shares:
            covariance = covariance + values.of_all(some, some)
        loss = _negative_log_likelihood(covariance, values.noise.exp(), y[rows])
        loss = loss + 0.02 * sum((a - b).square().sum() for a, b in zip(values, start, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Kernels(*(part.detach() for part in values))


def _some(task: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Return numbers of some rows of some tasks, at random."""
    order = rng.permutation(len(task))
    of = task.numpy()[order]
    of_tasks = [order[of == number][:_ROWS_OF_TASK] for number in rng.permutation(np.unique(of))]
    return np.concatenate(of_tasks)[:_ROWS]


def learn(
    points: Tensor, tasks: Sequence[TaskRows], kernels: Kernels, strength: float, related: Related
) -> Learned:
    """Learn mean and covariance of the functions of tasks at the points; see `MultiTaskGP`.

    The mean is the posterior mean of what tasks share. The covariance is the most probable one under an
    inverse Wishart prior around the own kernel `K_0`, which counts as `strength` tasks, by the EM algorithm:
    with `u_j` and `C_j` the posterior mean and covariance of what is task j's own,

        K <- (strength K_0 + sum_j (u_j u_j^T + C_j)) / (strength + J)
    """
    noise = float(kernels.noise.exp())
    prior = kernels.of_task(points, points).numpy()
    if related == "none":
        return Learned(np.zeros(len(prior)), prior)
    mean = _shared_mean(kernels.of_all(points, points).numpy(), prior, tasks, noise)
    if related == "equal":
        return Learned(mean, prior)
    covariance = prior
    for _ in range(_EM_ROUNDS):
        own, explained = _posteriors(covariance, mean, tasks, noise)
        total = strength * prior + own.T @ own + len(tasks) * covariance - explained
        covariance = (total + total.T) / (2 * (strength + len(tasks)))
    return Learned(mean, covariance)


def _posteriors(
    covariance: np.ndarray, mean: np.ndarray, tasks: Sequence[TaskRows], noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior means of what is the tasks' own, `(J, M)`, and `sum_j (K - C_j)`, `(M, M)`.

    With `S_j = K_jj + noise I` at the places of task j, `K - C_j = K_:j S_j^-1 K_j:`. Of few rows in all it
    is a product of the whitened `K_j:`, and of many, where tasks share points, of K with the sum of the
    `S_j^-1`.
    """
    own, precision, white = np.zeros((len(tasks), len(mean))), np.zeros_like(covariance), []
    has_few_rows = sum(len(places) for places, _ in tasks) <= _FEW_ROWS * len(mean)
    for number, (places, y) in enumerate(tasks):
        inverse = np.linalg.inv(covariance[np.ix_(places, places)] + noise * np.eye(len(places)))
        own[number] = covariance[:, places] @ (inverse @ (y - mean[places]))
        if has_few_rows:
            white.append(np.linalg.cholesky(inverse).T @ covariance[places])
        else:
            _add(precision, places, inverse)
    if not has_few_rows:
        return own, covariance @ precision @ covariance
    of_all = np.concatenate(white)
    return own, of_all.T @ of_all


def _shared_mean(shared: np.ndarray, own: np.ndarray, tasks: Sequence[TaskRows], noise: float) -> np.ndarray:
    """Return the posterior mean of what tasks share, at the points."""
    precision, pull = np.zeros_like(shared), np.zeros(len(shared))
    for places, y in tasks:
        block = np.ix_(places, places)
        inverse = np.linalg.inv(own[block] + noise * np.eye(len(places)))
        _add(precision, places, inverse)
        np.add.at(pull, places, inverse @ y)
    return shared @ np.linalg.solve(np.eye(len(shared)) + precision @ shared, pull)


def _add(matrix: np.ndarray, places: np.ndarray, block: np.ndarray) -> None:
    """Add a block at places, which may repeat: a task may have measured one input twice."""
    distinct, which = np.unique(places, return_inverse=True)
    selection = np.eye(len(distinct))[which]
    matrix[np.ix_(distinct, distinct)] += selection.T @ block @ selection


def weights(covariance: Tensor, right: Tensor) -> Tensor:
    """Return `(K + jitter)^-1 right`, which extends values at the points to all inputs."""
    return torch.cholesky_solve(right, torch.linalg.cholesky(covariance + _jitter(covariance)))


def _jitter(covariance: Tensor) -> Tensor:
    return _JITTER * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)


def _negative_log_likelihood(covariance: Tensor, noise: Tensor, y: Tensor) -> Tensor:
    """Return `y^T S^-1 y / 2 + log det S / 2` of `S = covariance + noise I`.

    Its gradient `(S^-1 - a a^T) / 2` with `a = S^-1 y` is given, which takes half the time of that through
    the factor.
    """
    noisy = covariance + noise * torch.eye(len(y), dtype=y.dtype) + _jitter(covariance)
    fixed = noisy.detach()
    factor = torch.linalg.cholesky(fixed)
    inverse = torch.cholesky_inverse(factor)
    solved = inverse @ y
    gradient = (inverse - torch.outer(solved, solved)) / 2
    return y @ solved / 2 + factor.diagonal().log().sum() + (gradient * (noisy - fixed)).sum()


def _kernel(logs: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if len(logs) == 1:
        products = a @ b.T
        unions = a.square().sum(1, keepdim=True) + b.square().sum(1) - products
        return logs.exp() * products / unions.clamp(min=torch.finfo(a.dtype).tiny)
    amplitude, (scales, slopes) = logs[0].exp(), logs[1:].exp().chunk(2)
    u, v = a / scales, b / scales
    squares = u.square().sum(1, keepdim=True) + v.square().sum(1) - 2 * u @ v.T
    return amplitude * torch.exp(-squares.clamp(min=0) / 2) + (slopes * a) @ b.T
