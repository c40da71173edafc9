"""Gaussian processes on learned features."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad

from metalens.errors import MetaLensError, check_choice, check_positive
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.classification import indicator_targets, number_of_outputs
from metalens.networks import Network

Kernel = Literal["rbf", "matern52", "linear"]
DomainKernel = Literal["none", "rbf", "linear", "tanimoto"]
GPObjective = Literal["marginal", "predictive"]
GPMean = Literal["constant", "network"]

NOISE_FLOOR = 1e-4  # of the mean prior variance: single precision can factorize hundreds of examples


class DeepKernelGP(NetworkLearner):
    """Condition a Gaussian process, whose kernel sees learned features, on the support set.

    `f ~ GP(m, k)`, `y = f(x) + e`, `e ~ N(0, s^2)`, with `k(x, x') = a h(g(x), g(x'))` for features g. With
    `C = k(X, X) + s^2 I` and `k_x = k(X, x)` for the support inputs X, prediction and variance are

        mean(x) = m + k_x^T C^-1 (y - m)
        var(x) = k(x, x) - k_x^T C^-1 k_x + s^2

    Per d features or inputs, with length scale l:

        rbf: h(u, v) = exp(-r^2 / 2), r^2 = ||u - v||^2 / (d l^2)
        matern52: h(u, v) = (1 + t + t^2 / 3) exp(-t), t = sqrt(5) r
        linear: h(u, v) = <u, v> / d
        tanimoto: h(u, v) = <u, v> / (||u||^2 + ||v||^2 - <u, v>)

    Dividing by d lets the same starting values suit features of unit variance at every width. The c targets
    of a task are independent processes. Learned are a mean m for each, and the shared logarithms of the noise
    variance, of the amplitude a and of the length scale. An empty support is predicted by m, with the prior's
    variance.

    Classification is regression on +1 for the class and -1 for the others; the posterior means are the
    logits. They rank the classes, and are not calibrated as log-probabilities: judge it by accuracy.

    Args:
        network: only its backbone g is used and kept.
        n_outputs: targets or classes of a task; by default the number of outputs of the network's head.
        kernel: h on features: `"rbf"`, `"matern52"` or `"linear"`.
        domain_kernel: a second kernel on the flattened inputs, added with an amplitude and, for `"rbf"`, a
            length scale of its own: `"none"`, `"rbf"`, `"linear"`, or `"tanimoto"` for binary fingerprints.
        mean: m: `"constant"`, or `"network"`, a linear function of the features beside it: the process models
            how a task differs from a network that all tasks share.
        objective: the outer loss, per target of an example: `"marginal"`, the negative log density of all
            targets of support and query (DKT), or `"predictive"`, that of the query's given the support
            (ADKF). Both are joint densities.
        inner_steps: number of gradient steps by which the hyperparameters adapt to each task; 0 for none.
        inner_lr: step size of those steps, on the support's negative log density per target.
        noise: the noise variance at the start.
        loss: see `Learner`; for regularizers, as the outer loss is `objective`.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.

    >>> from metalens import DeepKernelGP, Sinusoid, mlp
    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> model = DeepKernelGP(mlp())(task.support)
    >>> mean, variance = model.learner.predict_distribution(model.state, task.query.x)
    >>> bool((variance > 0).all()), torch.equal(mean, model(task.query.x))
    (True, True)

    Source: M. Patacchiola, J. Turner, E. Crowley, M. O'Boyle, A. Storkey, "Bayesian Meta-Learning for the
    Few-Shot Setting via Deep Kernels" (DKT), 2020, arXiv 1910.05199; W. Chen, A. Tripp,
    J. M. Hernandez-Lobato, "Meta-learning Adaptive Deep Kernel Gaussian Processes for Molecular Property
    Prediction" (ADKF-IFT), 2023, arXiv 2205.02708. Deviation from DKT: classes share all
    hyperparameters but the mean.
    Deviations from ADKF-IFT: a few gradient steps, differentiated through, from a learned start, in place of
    a full fit with the implicit function theorem; no priors on hyperparameters. Deviations from both: the
    domain kernel, the mean of the network, the division by d, the starting values, and a noise variance of at
    least 1e-4 of the mean prior variance over the support, which keeps single precision stable.
    """

    head_only = headless = True
    min_support = 0

    def __init__(
        self,
        network: Network,
        *,
        n_outputs: int | None = None,
        kernel: Kernel = "rbf",
        domain_kernel: DomainKernel = "none",
        mean: GPMean = "constant",
        objective: GPObjective = "marginal",
        inner_steps: int = 0,
        inner_lr: float = 0.1,
        noise: float = 0.1,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, loss=loss)
        for name, choice, choices in (
            ("kernel", kernel, Kernel),
            ("domain_kernel", domain_kernel, DomainKernel),
            ("mean", mean, GPMean),
            ("objective", objective, GPObjective),
        ):
            check_choice(self, name, choice, choices)
        check_positive(self, inner_lr=inner_lr, noise=noise)
        if inner_steps < 0:
            raise MetaLensError(f"DeepKernelGP: inner_steps must be 0 or more, got {inner_steps}.")
        self.n_outputs = number_of_outputs(type(self).__name__, network, n_outputs)
        self.from_hidden = domain_kernel == "none"
        self.kernel: Kernel = kernel
        self.domain_kernel: DomainKernel = domain_kernel
        self.objective: GPObjective = objective
        self.inner_steps, self.inner_lr = inner_steps, inner_lr
        starts: dict[str, list[Any]] = {"mean": [0.0] * self.n_outputs, "log_noise": [math.log(noise)]}
        for prefix, choice in (("", kernel), ("domain_", domain_kernel)):
            if choice != "none":
                starts[f"{prefix}log_amplitude"] = [0.0]
            if choice in _STATIONARY:
                starts[f"{prefix}log_length_scale"] = [0.0]
        example = next(network.parameters())
        if mean == "network":
            starts["mean_weights"] = [[0.0] * self.n_outputs] * network.n_features
        self.hyperparameters = nn.ParameterDict(
            {name: nn.Parameter(example.new_tensor(start)) for name, start in starts.items()}
        )

    def encode(self, x: Tensor) -> Tensor:
        features = self.embed(x)
        return features if self.domain_kernel == "none" else torch.cat([features, x.flatten(1)], dim=1)

    def features(self, z: Tensor) -> Tensor:
        return z[:, : self.network.n_features]

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.hyperparameters.items()) if self.inner_steps > 0 else {}

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        targets = self._targets(z, y)
        hyper = {**self.hyperparameters}
        for _ in range(self.inner_steps if len(z) else 0):
            gradients = grad(self._support_loss)(hyper, z, targets)
            hyper = {name: value - self.inner_lr * gradients[name] for name, value in hyper.items()}
        return self._condition(hyper, z, targets)

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return self._mean(state, z) + self._covariance(state, z, state["support"]) @ state["weights"]

    def predict_hidden(self, state: State, hidden: Tensor, layer: int) -> Tensor:
        if self.domain_kernel != "none":
            raise MetaLensError(
                f"{type(self).__name__} with domain_kernel={self.domain_kernel!r} cannot predict from "
                "activations, as that kernel needs the inputs; use domain_kernel='none'."
            )
        return super().predict_hidden(state, hidden, layer)

    def predict_distribution(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of noisy targets at the inputs `(n, *input_shape)`, each `(n, c)`.

        The variance, in squared units of y, is that of one new observation: of the process plus the noise.
        Like `predict`, it runs the backbone in the mode that the learner is in.
        """
        z = self.encode(x)
        mean, variance = self.predict_encoded(state, z), self._posterior_covariance(state, z).diagonal()
        return mean, variance.unsqueeze(1).expand_as(mean)

    def outer_loss(self, state: State, predictions: Tensor, z: Tensor, y: Tensor) -> Tensor:
        residuals = self._targets(z, y) - predictions
        cholesky = torch.linalg.cholesky(self._posterior_covariance(state, z))
        query = negative_log_density(cholesky, residuals)
        if self.objective == "predictive":
            return query / residuals.numel()
        both = query + negative_log_density(state["cholesky"], state["residuals"])
        return both / (residuals.numel() + state["residuals"].numel())

    def _targets(self, z: Tensor, y: Tensor) -> Tensor:
        targets = indicator_targets(y, z, self.n_outputs)
        return targets if y.is_floating_point() else 2 * targets - 1

    def _mean(self, hyper: State, z: Tensor) -> Tensor:
        """Return the prior mean of the processes at an encoded set, `(n, c)`, or `(c,)` if it is constant."""
        if "mean_weights" in hyper:
            return hyper["mean"] + self.features(z) @ hyper["mean_weights"]
        return hyper["mean"]

    def _covariance(self, hyper: State, a: Tensor, b: Tensor) -> Tensor:
        """Return the prior covariance of the processes at two encoded sets, `(n, m)`."""
        d = self.network.n_features
        total = _scaled_kernel(self.kernel, hyper, "", a[:, :d], b[:, :d])
        if self.domain_kernel != "none":
            total = total + _scaled_kernel(self.domain_kernel, hyper, "domain_", a[:, d:], b[:, d:])
        return total

    def _condition(self, hyper: State, z: Tensor, targets: Tensor) -> State:
        covariance = self._covariance(hyper, z, z)
        noise = hyper["log_noise"].exp() + NOISE_FLOOR * covariance.diagonal().sum() / max(len(z), 1)
        cholesky = torch.linalg.cholesky(covariance + _diagonal(noise, z))
        residuals = targets - self._mean(hyper, z)
        weights = torch.cholesky_solve(residuals, cholesky)
        solved = {"residuals": residuals, "noise": noise, "cholesky": cholesky, "weights": weights}
        return {**hyper, "support": z, **solved}

    def _support_loss(self, hyper: State, z: Tensor, targets: Tensor) -> Tensor:
        state = self._condition(hyper, z, targets)
        return negative_log_density(state["cholesky"], state["residuals"]) / targets.numel()

    def _posterior_covariance(self, state: State, z: Tensor) -> Tensor:
        """Return the covariance of noisy targets at encoded inputs, `(n, n)`."""
        cross = self._covariance(state, state["support"], z)
        explained = torch.linalg.solve_triangular(state["cholesky"], cross, upper=False)
        return self._covariance(state, z, z) - explained.T @ explained + _diagonal(state["noise"], z)


def _diagonal(noise: Tensor, z: Tensor) -> Tensor:
    return noise * torch.eye(len(z), dtype=z.dtype, device=z.device)


def negative_log_density(cholesky: Tensor, residuals: Tensor) -> Tensor:
    """Return `-log N(residuals; 0, L L^T)`, the sum over the columns of the residuals `(n, c)`."""
    n, c = residuals.shape
    white = torch.linalg.solve_triangular(cholesky, residuals, upper=False)
    return white.square().sum() / 2 + c * (cholesky.diagonal().log().sum() + n * math.log(2 * math.pi) / 2)


def _scaled_kernel(name: str, hyper: State, prefix: str, a: Tensor, b: Tensor) -> Tensor:
    if name in _STATIONARY:
        scale = torch.exp(-hyper[f"{prefix}log_length_scale"])
        a, b = scale * a, scale * b
    return hyper[f"{prefix}log_amplitude"].exp() * _KERNELS[name](a, b)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    center = (b if len(b) else a).mean(0)
    a, b = a - center, b - center  # less cancels around the mean
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T) / a.shape[1]


def _matern52(a: Tensor, b: Tensor) -> Tensor:
    squares = 5 * _squared_distances(a, b)
    near = squares < 1e-8  # the root has no derivative at 0; there the function is 1 - t^2 / 6
    t = torch.where(near, 1.0, squares).sqrt()
    return torch.where(near, 1 - squares / 6, (1 + t + squares / 3) * torch.exp(-t))


def _tanimoto(a: Tensor, b: Tensor) -> Tensor:
    products = a @ b.T
    unions = a.square().sum(1, keepdim=True) + b.square().sum(1) - products
    return products / unions.clamp(min=torch.finfo(a.dtype).tiny)  # without a bit in either: 0, not 0 / 0


_KERNELS = {
    "rbf": lambda a, b: torch.exp(-_squared_distances(a, b) / 2),
    "matern52": _matern52,
    "linear": lambda a, b: a @ b.T / a.shape[1],
    "tanimoto": _tanimoto,
}
_STATIONARY = ("rbf", "matern52")
