"""Functions of known tasks, and a new task as a weighted sum of them and a function of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch

from metalens import MultiTaskGP, TableTasks
from metalens.learners.baselines.task_covariance import Kernels
from metalens.tasks import Examples

MOST_ROWS = 200  # of a known task


class Settings(NamedTuple):
    """Prior variances, relative to those of the functions of known tasks.

    Attributes:
        related: of the sum of known functions; each weight has the variance `related / P`.
        own: of the function of a task's own.
    """

    related: float
    own: float


class Rows(NamedTuple):
    """Inputs `(n, d)` and targets `(n,)` in double precision."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """Return the rows of examples with one target each."""
        return cls(examples.x.flatten(1).double().numpy(), examples.y[:, 0].double().numpy())


class Bank:
    """The functions of P known tasks under a Gaussian process without relations between them.

    With m, `k_0` and the noise s of `MultiTaskGP(relations="equal")`, what is task p's own is the posterior
    mean `u_p` of all its rows. A new task is

        f(x) = m(x) + sum_p w_p u_p(x) + g(x),    w_p ~ N(0, a / P),    g ~ GP(0, b k_0)

    so that the posterior means of the weights are those of a regression on the functions of known tasks, in
    which what they cannot explain is a function of the task's own.

    Args:
        process: fitted to the known tasks.
        tasks: the known tasks.
    """

    def __init__(self, process: MultiTaskGP, tasks: TableTasks) -> None:
        level, noise = process.level_and_noise[0]
        self.process, self.noise = process, float(noise.exp())
        self.kernels = Kernels(process.shared[0], process.own[0], level, noise)
        rng, self.rows, weights = np.random.default_rng(0), {}, []
        for name, examples in tasks.examples_by_task(len(tasks.task_names)).items():
            some = rng.permutation(len(examples.x))[:MOST_ROWS]
            rows = Rows(*(part[some] for part in Rows.of(examples)))
            matrix = self.own(rows.x, rows.x) + self.noise * np.eye(len(rows.x))
            self.rows[name] = rows
            weights.append(np.linalg.solve(matrix, self.residuals(rows)))
        everything = torch.from_numpy(np.concatenate([rows.x for rows in self.rows.values()]))
        self.points, places = (part.numpy() for part in everything.unique(dim=0, return_inverse=True))
        self.point_weights = np.zeros((len(self.points), len(self.rows)))
        tasks_of = np.repeat(np.arange(len(self.rows)), [len(rows.y) for rows in self.rows.values()])
        np.add.at(self.point_weights, (places, tasks_of), np.concatenate(weights))

    def own(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return `k_0` at two sets of inputs, `(n, m)`."""
        return self.kernels.of_task(torch.from_numpy(a), torch.from_numpy(b)).numpy()

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Return m at inputs, `(n,)`, in the units of the process."""
        cross = self.kernels.of_all(torch.from_numpy(x), self.process.points.double())
        return (cross @ self.process.mean_weights[0].double()).numpy()

    def residuals(self, rows: Rows) -> np.ndarray:
        """Return what m leaves of targets, `(n,)`, in the units of the process."""
        center, spread = self.process.units[0].double().tolist()
        return (rows.y - center) / spread - self.mean(rows.x)

    def functions(self, x: np.ndarray) -> np.ndarray:
        """Return `u_p` at inputs, `(n, P)`."""
        return self.own(x, self.points) @ self.point_weights

    def weights(self, rows: Rows, settings: Settings, known: Sequence[str]) -> np.ndarray:
        """Return the weights of some known tasks, given rows of another one."""
        names = list(self.rows)
        functions = self.functions(rows.x)[:, [names.index(name) for name in known]]
        return _weights(functions, self.own(rows.x, rows.x), self.residuals(rows), self.noise, settings)


class Episode:
    """A new task: rows that tell the weights, support rows, and the inputs to predict.

    Args:
        bank: of known tasks.
        support: rows of the task that are known.
        telling: further rows that only the bound knows.
        x: inputs to predict, `(q, d)`.
    """

    def __init__(self, bank: Bank, support: Rows, telling: Rows, x: np.ndarray) -> None:
        self.bank, self.n_support = bank, len(support.y)
        rows = Rows(*(np.concatenate(pair) for pair in zip(support, telling, strict=True)))
        self.residuals, self.kernel = bank.residuals(rows), bank.own(rows.x, rows.x)
        self.functions, self.new = bank.functions(rows.x), bank.functions(x)
        self.mean, self.cross = bank.mean(x), bank.own(x, support.x)

    def weights(self, settings: Settings, n: int) -> np.ndarray:
        """Return the posterior means of the weights given the first n rows, `(P,)`."""
        return _weights(
            self.functions[:n], self.kernel[:n, :n], self.residuals[:n], self.bank.noise, settings
        )

    def predict(self, settings: Settings, *, bound: bool = False, shuffled: bool = False) -> np.ndarray:
        """Return predicted targets, `(q,)`.

        Args:
            settings: of the prior.
            bound: the weights are told by all rows, what is the task's own by the support alone.
            shuffled: the weights are given to the wrong known tasks.
        """
        s = self.n_support
        weights = self.weights(settings, len(self.residuals) if bound else s)
        left = self.residuals[:s] - self.functions[:s] @ weights
        matrix = settings.own * self.kernel[:s, :s] + self.bank.noise * np.eye(s)
        own = settings.own * self.cross @ np.linalg.solve(matrix, left)
        center, spread = self.bank.process.units[0].double().tolist()
        related = self.new @ (np.roll(weights, 1) if shuffled else weights)
        return center + spread * (self.mean + related + own)


def _weights(
    functions: np.ndarray, kernel: np.ndarray, residuals: np.ndarray, noise: float, settings: Settings
) -> np.ndarray:
    """Return the posterior means of the weights of P known functions, `(P,)`, given n rows."""
    scale = settings.related / functions.shape[1]
    matrix = scale * functions @ functions.T + settings.own * kernel + noise * np.eye(len(kernel))
    return scale * functions.T @ np.linalg.solve(matrix, residuals)
