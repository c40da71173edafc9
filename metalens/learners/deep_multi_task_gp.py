"""Gaussian processes on learned features that see the data of known tasks."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from metalens.data import TaskDistribution
from metalens.data.checks import check_sizes
from metalens.errors import check_choice
from metalens.learners.base import Loss, State, task_loss
from metalens.learners.baselines.fitted import resize_when_loaded
from metalens.learners.baselines.task_covariance import Related
from metalens.learners.deep_kernel_gp import (
    NOISE_FLOOR,
    DeepKernelGP,
    DomainKernel,
    GPMean,
    GPObjective,
    Kernel,
)
from metalens.networks import Network

_TOLERANCE = 1e-4  # of the fingerprints of rows, relative


class DeepMultiTaskGP(DeepKernelGP):
    """A deep kernel Gaussian process in which a new task sees the data of known tasks, by its relations.

    With the kernel k, mean m and noise s^2 of `DeepKernelGP`, known task p of P with rows (X_p, y_p) has the
    function, and a new task is a weighted sum of them and a function of its own:

        u_p(x) = k(x, X_p) (k(X_p, X_p) + s^2 I)^-1 (y_p - m(X_p))
        f(x) = m(x) + sum_p w_p u_p(x) + g(x),    w_p ~ N(0, r / P),    g ~ GP(0, b k)

    So f is a process with the covariance

        k'(x, x') = b k(x, x') + (r / P) sum_p u_p(x) u_p(x')

    on the support of the new task, whose posterior means of w are the relations that explain the support
    best, see `Stacked`. Features, hyperparameters, r and b are learned together, through the functions of the
    known tasks. In training a task does not see itself: a known task that holds all rows of a support is left
    out for it.

    `fit` takes the known tasks from the training tasks before the first step. Their rows, with targets, are
    kept in the learner, and are saved with it. Before, P is 0. With c targets, or classes as in
    `DeepKernelGP`, every known task has c functions, and each may be a part of any output of a new task, so
    that the slots of classes may differ between tasks; P above is their number then.

    Args:
        network: only its backbone is used and kept.
        n_outputs: see `DeepKernelGP`.
        kernel: see `DeepKernelGP`.
        domain_kernel: see `DeepKernelGP`.
        mean: see `DeepKernelGP`.
        objective: see `DeepKernelGP`.
        relations: of a task to known ones: `"learned"` as above; as controls `"equal"`, one weight of the
            mean of all u_p, and `"none"`, P = 0: a deep kernel alone.
        n_known: number of training tasks to draw, P at most.
        n_rows: of each known task, at random.
        noise: the noise variance at the start.
        loss: see `Learner`; for regularizers.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.

    >>> from metalens import DeepMultiTaskGP, Objective, Sinusoid, fit, mlp
    >>> learner = DeepMultiTaskGP(mlp(), n_known=20)
    >>> _ = fit(Objective(learner), Sinusoid(n_train_tasks=20), steps=2, meta_batch_size=4)
    >>> task = Sinusoid("test")[0]
    >>> learner(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: ours; the covariance of tasks is that of E. Bonilla, K. Chai, C. Williams, "Multi-task Gaussian
    Process Prediction", 2007, for tasks that are not known in training.
    """

    known_x: Tensor
    known_targets: Tensor
    is_row: Tensor
    center: Tensor
    direction: Tensor
    prints: Tensor

    def __init__(
        self,
        network: Network,
        *,
        n_outputs: int | None = None,
        kernel: Kernel = "rbf",
        domain_kernel: DomainKernel = "none",
        mean: GPMean = "network",
        objective: GPObjective = "predictive",
        relations: Related = "learned",
        n_known: int = 200,
        n_rows: int = 32,
        noise: float = 0.1,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(
            network,
            n_outputs=n_outputs,
            kernel=kernel,
            domain_kernel=domain_kernel,
            mean=mean,
            objective=objective,
            noise=noise,
            loss=loss,
        )
        check_choice(self, "relations", relations, Related)
        check_sizes(n_known=n_known, n_rows=n_rows)
        self.relations: Related = relations
        self.n_known, self.n_rows = n_known, n_rows
        if relations != "none":
            example = next(network.parameters())
            for name in ("log_related", "log_own"):
                self.hyperparameters[name] = nn.Parameter(example.new_tensor([0.0]))
        for name in ("known_x", "known_targets", "is_row", "center", "direction", "prints"):
            self.register_buffer(name, torch.zeros(0))
        resize_when_loaded(self)

    def prepare(self, tasks: TaskDistribution) -> None:
        if self.relations == "none":
            return
        rng, of_tasks = np.random.default_rng(0), list(tasks.examples_by_task(self.n_known).values())
        targets = [self._targets(x.flatten(1), y) for x, y in of_tasks]
        some = [torch.from_numpy(rng.permutation(len(y))[: self.n_rows]) for y in targets]
        rows = [_row(x.flatten(1), y).to(self.device, self.dtype) for x, y in of_tasks]
        deviation = torch.cat(rows).std(0, correction=0)
        self.center = torch.cat(rows).mean(0)
        self.direction = torch.from_numpy(rng.normal(size=len(deviation))).to(deviation)
        self.direction /= deviation.where(deviation > 0, 1.0)
        buffers = {
            "known_x": _padded([x[chosen] for (x, _), chosen in zip(of_tasks, some, strict=True)], 0.0),
            "known_targets": _padded([y[chosen] for y, chosen in zip(targets, some, strict=True)], 0.0),
            "is_row": _padded([torch.ones(len(chosen)) for chosen in some], 0.0),
            "prints": _padded([self._prints(of_task) for of_task in rows], math.nan),
        }
        for name, value in buffers.items():
            setattr(self, name, value.to(self.device, self.dtype if value.is_floating_point() else None))

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([self.embed(x), x.flatten(1)], dim=1)

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        known, targets = self._known(z, y), self._targets(z, y)
        return known | self._condition({**self.hyperparameters}, self._seen(known, z), targets)

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return super().predict_encoded(state, self._seen(state, z))

    def _posterior_covariance(self, state: State, z: Tensor) -> Tensor:
        return super()._posterior_covariance(state, self._seen(state, z))

    def _known(self, z: Tensor, y: Tensor) -> State:
        """Return encoded rows of the known tasks, and the weights of these rows in their functions."""
        if len(self.known_x) == 0:
            return {}
        hyper, shape = {**self.hyperparameters}, self.is_row.shape
        known = self.encode(self.known_x.flatten(0, 1)).unflatten(0, shape)

        def row_weights(z: Tensor, targets: Tensor, is_row: Tensor) -> Tensor:
            covariance = is_row.unsqueeze(1) * DeepKernelGP._covariance(self, hyper, z, z) * is_row
            noise = hyper["log_noise"].exp() + NOISE_FLOOR * covariance.diagonal().sum() / is_row.sum()
            cholesky = torch.linalg.cholesky(covariance + torch.diag(noise + 1 - is_row))
            residuals = is_row.unsqueeze(1) * (targets - self._mean(hyper, z))
            return torch.cholesky_solve(residuals, cholesky)

        weights = vmap(row_weights)(known, self.known_targets, self.is_row)  # (P, rows, c)
        return {"known": known.flatten(0, 1), "row_weights": weights * self._others(z, y)[:, None, None]}

    def _others(self, z: Tensor, y: Tensor) -> Tensor:
        """Return 0 for known tasks that hold all rows of the support, 1 for others, `(P,)`."""
        if len(z) == 0:
            return torch.ones_like(self.prints[:, 0])
        prints = self._prints(_row(z[:, self.network.n_features :], y))
        near = (prints - self.prints.unsqueeze(-1)).abs() <= _TOLERANCE * (1 + prints.abs())  # (P, n, s)
        return 1 - near.any(1).all(1).to(z.dtype)

    def _prints(self, rows: Tensor) -> Tensor:
        """Return a number of each row, its fingerprint: rows are standardized, and projected at random."""
        return ((rows - self.center) * self.direction).sum(1)

    def _seen(self, state: State, z: Tensor) -> Tensor:
        """Return an encoded set followed by `u_p sqrt(r / P)` of the known tasks, `(n, d + P c)`."""
        if "known" not in state:
            return z
        weights = state["row_weights"]
        cross = super()._covariance({**self.hyperparameters}, z, state["known"])
        functions = torch.einsum("npr,prc->npc", cross.unflatten(1, weights.shape[:2]), weights)
        functions = functions.mean(1) if self.relations == "equal" else functions.flatten(1)
        scale = (self.hyperparameters["log_related"].exp() / functions.shape[1]).sqrt()
        return torch.cat([z, scale * functions], dim=1)

    def _covariance(self, hyper: State, a: Tensor, b: Tensor) -> Tensor:
        if self.relations == "none":
            return super()._covariance(hyper, a, b)
        n = self._n_functions
        (a, of_a), (b, of_b) = (z.tensor_split((z.shape[1] - n,), dim=1) for z in (a, b))
        return hyper["log_own"].exp() * super()._covariance(hyper, a, b) + of_a @ of_b.T

    @property
    def _n_functions(self) -> int:
        """The number of functions of known tasks."""
        n_known = len(self.known_x)
        return self.n_outputs * (min(n_known, 1) if self.relations == "equal" else n_known)


def _row(x: Tensor, y: Tensor) -> Tensor:
    """Return what tells rows apart: inputs `(n, d)`, and targets unless they are slots of classes."""
    return torch.cat([x, y], dim=1) if y.is_floating_point() else x


def _padded(parts: list[Tensor], value: float) -> Tensor:
    """Return tensors of different lengths as one, `(P, longest, ...)`."""
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)
