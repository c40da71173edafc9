"""Gaussian processes on learned features, with hyperparameters fitted to each task."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from metalens.data.checks import check_sizes
from metalens.errors import check_positive
from metalens.learners.base import Loss, State, task_loss
from metalens.learners.deep_kernel_gp import (
    DeepKernelGP,
    DomainKernel,
    GPMean,
    Kernel,
    negative_log_density,
)
from metalens.networks import Network

_STEP_SIZES = (
    1.0,
    0.5,
    0.25,
    0.125,
    0.03125,
    0.0,
)  # of a Newton step; the best is taken, of equally good ones the longest
_ROUNDING = 100
_LONGEST_STEP = 2.0  # in each logarithm
_MIN_CURVATURE = 1e-6


class ADKF(DeepKernelGP):
    """A deep kernel whose hyperparameters are the most probable ones of each task; implicit meta-gradient.

    A Gaussian process as in `DeepKernelGP`, with features g of all tasks and hyperparameters `theta` of each:
    mean, and logarithms of noise variance, amplitudes and length scales. With learned `theta_0`, they
    maximize the posterior density given the support (X, y),

        theta* = argmin_theta F(theta), F = -log p(y | X, theta, g) + ||theta - theta_0||^2 / (2 deviation^2)

    by Newton's method. The outer loss is the negative log density of the query given the support. Its
    gradient takes `theta*` as an implicit function: with the Hessian H of F there,

        d theta* / d g = -H^-1 d^2 F / d theta d g, and alike for theta_0

    It does not depend on the path to `theta*`, so memory does not grow with the steps. The gradient is exact
    where these have converged. Without support, `theta*` is `theta_0`.

    Args:
        network: only its backbone g is used and kept.
        n_outputs: targets or classes of a task; by default the number of outputs of the network's head.
        kernel: see `DeepKernelGP`.
        domain_kernel: see `DeepKernelGP`.
        mean: see `DeepKernelGP`; the weights of `"network"` are shared by all tasks.
        deviation: standard deviation of the prior of the hyperparameters: how far tasks may differ in them.
        inner_steps: steps of Newton's method.
        noise: the noise variance at the start.
        loss: see `Learner`; for regularizers.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.

    >>> from metalens import ADKF, Sinusoid, mlp
    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> model = ADKF(mlp())(task.support)
    >>> mean, variance = model.learner.predict_distribution(model.state, task.query.x)
    >>> bool((variance > 0).all())
    True

    Source: W. Chen, A. Tripp, J. M. Hernandez-Lobato, "Meta-learning Adaptive Deep Kernel Gaussian Processes
    for Molecular Property Prediction" (ADKF-IFT), 2023, arXiv 2205.02708. Deviations: the prior of the
    hyperparameters is normal around learned values; Newton's method in place of L-BFGS; those of
    `DeepKernelGP`.
    """

    compile_refusal = "the compiler would take minutes for its steps of Newton's method"

    def __init__(
        self,
        network: Network,
        *,
        n_outputs: int | None = None,
        kernel: Kernel = "rbf",
        domain_kernel: DomainKernel = "none",
        mean: GPMean = "constant",
        deviation: float = 1.0,
        inner_steps: int = 10,
        noise: float = 0.1,
        loss: Loss = task_loss,
    ) -> None:
        check_positive(self, deviation=deviation)
        check_sizes(inner_steps=inner_steps)
        super().__init__(
            network,
            n_outputs=n_outputs,
            kernel=kernel,
            domain_kernel=domain_kernel,
            mean=mean,
            objective="predictive",
            inner_steps=inner_steps,
            noise=noise,
            loss=loss,
        )
        self.deviation = deviation

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.hyperparameters.items() if name != "mean_weights"}

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        targets, shared = self._targets(z, y), {**self.hyperparameters}
        start = torch.cat(list(self.adapted_parameters().values()))

        def objective(theta: Tensor, start: Tensor, shared: State, z: Tensor) -> Tensor:
            state = self._condition(self._with(shared, theta), z, targets)
            misfit = negative_log_density(state["cholesky"], state["residuals"])
            return misfit + (theta - start).square().sum() / (2 * self.deviation**2)

        constants = {name: value.detach() for name, value in shared.items()}
        fixed = partial(objective, start=start.detach(), shared=constants, z=z.detach())
        curvature = jacrev(grad(fixed))  # not `hessian`, whose forward mode warns in PyTorch 2.13
        theta = start.detach()
        for _ in range(self.inner_steps):
            step = _newton_step(curvature(theta), grad(fixed)(theta))
            tried = torch.stack([theta + size * step for size in _STEP_SIZES])
            losses = vmap(fixed)(tried).nan_to_num(nan=torch.inf)
            rounding = _ROUNDING * torch.finfo(losses.dtype).eps * (1 + losses.min().abs())
            longest = (losses <= losses.min() + rounding).int().argmax()
            theta = tried.index_select(0, longest.unsqueeze(0)).squeeze(0)
        # One more step, at which only the gradient is not constant: its derivative is that of theta*.
        last = _newton_step(curvature(theta), grad(objective)(theta, start, shared, z))
        return self._condition(self._with(shared, theta + last), z, targets)

    def _with(self, shared: State, theta: Tensor) -> State:
        """Return all hyperparameters, those of a task taken from one vector."""
        own = self.adapted_parameters()
        parts = theta.split([len(value) for value in own.values()])
        return {**shared, **dict(zip(own, parts, strict=True))}


def _newton_step(curvature: Tensor, gradient: Tensor) -> Tensor:
    """Return `-H^-1 gradient`, with the absolute values of the eigenvalues of H, as far as is sensible."""
    values, vectors = torch.linalg.eigh(curvature)
    step = -vectors @ ((vectors.mT @ gradient) / values.abs().clamp(min=_MIN_CURVATURE))
    return step * (_LONGEST_STEP / step.abs().max().clamp(min=_LONGEST_STEP))
