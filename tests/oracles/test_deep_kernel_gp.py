"""DeepKernelGP against scikit-learn's Gaussian process, and loops straight from the formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern, WhiteKernel
from small_networks import N_WAY, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import AdaptedTasks, DeepKernelGP, Examples, MetaLensError, Network, Objective
from metalens.relations import Cosine

FLOOR = 1e-4
KERNELS = ("rbf", "matern52", "linear")
DOMAIN_KERNELS = ("none", "rbf", "linear", "tanimoto")
VALUES = {
    "log_noise": -1.2,
    "log_amplitude": 0.7,
    "log_length_scale": -0.4,
    "domain_log_amplitude": -0.3,
    "domain_log_length_scale": 0.5,
}


def build(network: Network | None = None, **settings) -> DeepKernelGP:
    """A learner in double precision whose hyperparameters are off their starts."""
    learner = DeepKernelGP(build_network("mlp") if network is None else network, **settings).double()
    with torch.no_grad():
        for name, parameter in learner.hyperparameters.items():
            parameter.fill_(VALUES.get(name, 0.0))
        learner.hyperparameters["mean"].copy_(torch.linspace(0.3, -0.5, learner.n_outputs))
    return learner


def identity_network(d: int, n_outputs: int = 1) -> Network:
    return Network(nn.Identity(), nn.Linear(d, n_outputs), n_features=d, n_outputs=n_outputs)


def task(tasks, number: int) -> tuple[Examples, Examples]:
    return tuple(Examples(e.x[number], e.y[number]) for e in tasks[:2])


def real(y: torch.Tensor) -> np.ndarray:
    """Real targets, or +1 for the class of an example and -1 for the others."""
    if y.is_floating_point():
        return y.numpy()
    return np.array([[1.0 if label == k else -1.0 for k in range(N_WAY)] for label in y.tolist()])


def kernel_value(name: str, a: np.ndarray, b: np.ndarray, length_scale: float) -> float:
    if name == "linear":
        return sum(a * b) / len(a)
    if name == "tanimoto":
        return sum(a * b) / (sum(a**2) + sum(b**2) - sum(a * b))
    r = math.sqrt(sum((a - b) ** 2) / len(a)) / length_scale
    if name == "rbf":
        return math.exp(-(r**2) / 2)
    return (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r)


def prior(learner: DeepKernelGP, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """The prior covariance at two sets of inputs, entry by entry."""
    with torch.no_grad():
        features = [learner.embed(x).numpy() for x in (a, b)]
    values = {name: math.exp(VALUES.get(name, 0.0)) for name in VALUES}
    matrix = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            matrix[i, j] = values["log_amplitude"] * kernel_value(
                learner.kernel, features[0][i], features[1][j], values["log_length_scale"]
            )
            if learner.domain_kernel != "none":
                matrix[i, j] += values["domain_log_amplitude"] * kernel_value(
                    learner.domain_kernel,
                    a[i].numpy().ravel(),
                    b[j].numpy().ravel(),
                    values["domain_log_length_scale"],
                )
    return matrix


def by_hand(learner: DeepKernelGP, support: Examples, query: Examples) -> dict[str, np.ndarray | float]:
    """Mean and covariance of noisy query targets, and the joint log densities."""
    means = learner.hyperparameters["mean"].detach().numpy()
    ss, sq, qq = (
        prior(learner, a, b) for a, b in ((support.x, support.x), (support.x, query.x), (query.x, query.x))
    )
    noise = math.exp(VALUES["log_noise"]) + FLOOR * np.trace(ss) / len(ss)
    ss, qq = ss + noise * np.eye(len(ss)), qq + noise * np.eye(len(qq))
    mean = means + sq.T @ np.linalg.inv(ss) @ (real(support.y) - means)
    everything = np.block([[ss, sq], [sq.T, qq]])
    y = np.concatenate([real(support.y), real(query.y)]) - means
    densities = {
        name: sum(multivariate_normal(cov=matrix).logpdf(column) for column in part.T)
        for name, matrix, part in (("support", ss, y[: len(ss)]), ("both", everything, y))
    }
    return {"mean": mean, "covariance": qq - sq.T @ np.linalg.inv(ss) @ sq, **densities}


@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_sklearn(kernel):
    """Mean, standard deviation and log marginal likelihood of the regressor with a fixed kernel."""
    d = 7
    learner = build(kernel=kernel)
    support, query = task(regression_tasks("mlp"), 0)
    with torch.no_grad():
        z, zq = (learner.embed(x).numpy() for x in (support.x, query.x))
    amplitude, length_scale = math.exp(VALUES["log_amplitude"]), math.exp(VALUES["log_length_scale"])
    diagonal = (z**2).sum(1).mean() / d if kernel == "linear" else 1.0
    shape = {
        "rbf": RBF(length_scale * math.sqrt(d)),
        "matern52": Matern(length_scale * math.sqrt(d), nu=2.5),
        "linear": ConstantKernel(1 / d) * DotProduct(sigma_0=1e-12),
    }[kernel]
    noise = WhiteKernel(math.exp(VALUES["log_noise"]) + FLOOR * amplitude * diagonal)
    process = GaussianProcessRegressor(ConstantKernel(amplitude) * shape + noise, alpha=0, optimizer=None)
    means = learner.hyperparameters["mean"].detach().numpy()
    y, yq = support.y.numpy() - means, query.y.numpy() - means

    state = learner.adapt(support)
    mean, variance = learner.predict_distribution(state, query.x)
    expected_mean, deviation = process.fit(z, y).predict(zq, return_std=True)
    np.testing.assert_allclose(mean.detach().numpy(), expected_mean + means, rtol=1e-9)
    np.testing.assert_allclose(variance.detach().numpy(), deviation**2, rtol=1e-8)
    assert torch.equal(mean, learner.predict(state, query.x))

    of_support = process.log_marginal_likelihood_value_
    of_both = process.fit(np.concatenate([z, zq]), np.concatenate([y, yq])).log_marginal_likelihood_value_
    predictions, encoded = learner.predict(state, query.x), learner.encode(query.x)
    loss = learner.outer_loss(state, predictions, encoded, query.y).item()
    np.testing.assert_allclose(loss, -of_both / (y.size + yq.size), rtol=1e-9)
    learner.objective = "predictive"
    loss = learner.outer_loss(state, predictions, encoded, query.y).item()
    np.testing.assert_allclose(loss, -(of_both - of_support) / yq.size, rtol=1e-9)


@pytest.mark.parametrize("tasks", [classification_tasks, regression_tasks])
@pytest.mark.parametrize("domain_kernel", DOMAIN_KERNELS)
def test_equals_loops(domain_kernel, tasks):
    for kernel in KERNELS if domain_kernel == "none" else ("rbf",):
        support, query = task(tasks("mlp"), 1)
        learner = build(kernel=kernel, domain_kernel=domain_kernel)
        expected = by_hand(learner, support, query)
        state = learner.adapt(support)
        mean, variance = learner.predict_distribution(state, query.x)
        np.testing.assert_allclose(mean.detach().numpy(), expected["mean"], rtol=1e-8)
        for column in variance.detach().numpy().T:
            np.testing.assert_allclose(column, np.diag(expected["covariance"]), rtol=1e-8)
        s, q = len(support.x) * N_WAY, len(query.x) * N_WAY
        for objective, loss in (
            ("marginal", -expected["both"] / (s + q)),
            ("predictive", -(expected["both"] - expected["support"]) / q),
        ):
            learner.objective = objective
            outer = learner.outer_loss(state, mean, learner.encode(query.x), query.y)
            np.testing.assert_allclose(outer.item(), loss, rtol=1e-8)


def test_the_objective_is_the_mean_over_tasks():
    tasks = regression_tasks("mlp")
    learner = build(objective="predictive")
    expected = []
    for number in range(len(tasks.query.y)):
        support, query = task(tasks, number)
        densities = by_hand(learner, support, query)
        expected.append((densities["support"] - densities["both"]) / query.y.numel())
    np.testing.assert_allclose(Objective(learner)(tasks)["query"].item(), np.mean(expected), rtol=1e-9)


@pytest.mark.parametrize("domain_kernel", ["none", "rbf"])
def test_inner_steps_descend_the_marginal_likelihood_of_the_support(domain_kernel):
    """The adapted hyperparameters, and the outer gradient through their steps, by `MultivariateNormal`."""
    settings = {"domain_kernel": domain_kernel, "objective": "predictive", "inner_steps": 3, "inner_lr": 0.2}
    learner = build(**settings)
    support, query = task(regression_tasks("mlp"), 2)
    meta = {name: value.detach().clone().requires_grad_() for name, value in learner.hyperparameters.items()}

    def covariance(hyper: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(a), len(b), dtype=a.dtype)
        sets = {"": (learner.embed(a), learner.embed(b)), "domain_": (a, b)}
        for prefix in ("",) if domain_kernel == "none" else ("", "domain_"):
            u, v = sets[prefix]
            squares = (u[:, None] - v[None]).square().mean(-1) / hyper[f"{prefix}log_length_scale"].exp() ** 2
            total = total + hyper[f"{prefix}log_amplitude"].exp() * torch.exp(-0.5 * squares)
        return total

    def noisy(hyper: dict[str, torch.Tensor], x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return covariance(hyper, x, x) + noise * torch.eye(len(x), dtype=x.dtype)

    def log_density(matrix: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(len(matrix), dtype=matrix.dtype)
        return torch.distributions.MultivariateNormal(zero, matrix).log_prob(residuals.T).sum()

    def noise_of(hyper: dict[str, torch.Tensor]) -> torch.Tensor:
        return hyper["log_noise"].exp() + FLOOR * covariance(hyper, support.x, support.x).diagonal().mean()

    hyper = dict(meta)
    for _ in range(3):
        loss = -log_density(noisy(hyper, support.x, noise_of(hyper)), support.y - hyper["mean"])
        loss = loss / support.y.numel()
        gradients = torch.autograd.grad(loss, list(hyper.values()), create_graph=True)
        hyper = {name: v - 0.2 * g for (name, v), g in zip(hyper.items(), gradients, strict=True)}
    both, y = torch.cat([support.x, query.x]), torch.cat([support.y, query.y]) - hyper["mean"]
    density = log_density(noisy(hyper, both, noise_of(hyper)), y)
    density = density - log_density(noisy(hyper, support.x, noise_of(hyper)), y[: len(support.y)])
    expected = torch.autograd.grad(-density / query.y.numel(), list(meta.values()))

    state = learner.eval().adapt(support)  # also at test time
    loss = learner.outer_loss(state, learner.predict(state, query.x), learner.encode(query.x), query.y)
    gradients = torch.autograd.grad(loss, list(learner.hyperparameters.values()))
    torch.testing.assert_close(gradients, expected, rtol=1e-8, atol=1e-10)
    moved = learner.adapted_parameters()
    assert moved.keys() == meta.keys()
    for name, value in moved.items():
        torch.testing.assert_close(state[name], hyper[name], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(state[name], value, rtol=1e-3)


def test_adaptation_of_the_hyperparameters_is_a_task_vector():
    learner = build(inner_steps=1)
    relation = Cosine(vector="adaptation")
    relation.bind(learner)
    assert relation.omega.shape[1] == N_WAY + 3
    matrix = relation.double()(AdaptedTasks(learner, regression_tasks("mlp")))
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4, dtype=torch.float64))
    assert build().adapted_parameters() == {}


def test_encoding_holds_features_and_inputs():
    network = build_network("conv-norm")
    x = classification_tasks("conv-norm").support.x[0]
    learner = build(network, domain_kernel="linear")
    z = learner.encode(x)
    torch.testing.assert_close(z, torch.cat([network.embed(x), x.flatten(1)], 1))
    torch.testing.assert_close(learner.features(z), network.embed(x))
    torch.testing.assert_close(build(network).encode(x), network.embed(x))


def test_prediction_from_activations_is_refused_for_a_domain_kernel_alone():
    support, query = task(classification_tasks("mlp"), 0)
    for domain_kernel in DOMAIN_KERNELS:
        learner = build(domain_kernel=domain_kernel)
        assert learner.from_hidden == (domain_kernel == "none")
        state = learner.adapt(support)
        hidden = learner.hidden(state, query.x, 1)
        if domain_kernel == "none":
            expected = learner.predict(state, query.x)
            torch.testing.assert_close(learner.predict_hidden(state, hidden, 1), expected)
        else:
            words = (
                f"^DeepKernelGP with domain_kernel='{domain_kernel}' cannot predict from activations, .*.$"
            )
            with pytest.raises(MetaLensError, match=words):
                learner.predict_hidden(state, hidden, 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_single_precision_bears_repeated_examples_and_no_noise(kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 2, generator=generator).repeat(20, 1)
    learner = DeepKernelGP(identity_network(2), kernel=kernel, inner_steps=2)
    with torch.no_grad():
        learner.hyperparameters["log_noise"].fill_(-30.0)
        learner.hyperparameters["log_amplitude"].fill_(5.0)
    support = Examples(x, x.sum(1, keepdim=True))
    state = learner.adapt(support)
    loss = learner.outer_loss(state, learner.predict(state, x), x, support.y)
    gradients = torch.autograd.grad(loss, list(learner.hyperparameters.values()))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (learner.predict_distribution(state, x)[1] > 0).all()


@pytest.mark.parametrize("kernel", ["rbf", "matern52"])
def test_single_precision_bears_inputs_far_from_zero(kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=generator)
    y = x.sum(1, keepdim=True)
    learner = DeepKernelGP(identity_network(2), kernel=kernel)
    near = learner.predict(learner.adapt(Examples(x[:6], y[:6])), x[6:])
    far = learner.predict(learner.adapt(Examples(x[:6] + 1024, y[:6])), x[6:] + 1024)
    torch.testing.assert_close(far, near, rtol=2e-3, atol=2e-3)


def test_matern_is_smooth_where_inputs_coincide():
    """Near 0 it is 1 - t^2 / 6, of which second derivatives in the inputs are known."""
    learner = build(identity_network(1), kernel="matern52")
    scale = math.exp(VALUES["log_length_scale"])

    def value(x: torch.Tensor) -> torch.Tensor:
        hyper = dict(learner.hyperparameters.items())
        return learner._covariance(hyper, x.view(1, 1), torch.zeros(1, 1, dtype=x.dtype)).squeeze()

    amplitude, zero = math.exp(VALUES["log_amplitude"]), torch.zeros((), dtype=torch.float64)
    np.testing.assert_allclose(value(zero).item(), amplitude, rtol=1e-12)
    assert torch.func.grad(value)(zero).item() == 0.0
    curvature = torch.func.grad(torch.func.grad(value))
    for x in (0.0, 1e-5, 1e-3):
        at = torch.tensor(x, dtype=torch.float64)
        np.testing.assert_allclose(curvature(at).item(), -5 / 3 * amplitude / scale**2, rtol=1e-2)
        assert abs(value(at).item() / amplitude - 1 + 5 / 6 * (x / scale) ** 2) < 1e-9


def test_fingerprints_without_a_bit_are_like_no_other():
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    learner = DeepKernelGP(identity_network(3), domain_kernel="tanimoto", kernel="linear")
    with torch.no_grad():
        learner.hyperparameters["log_amplitude"].fill_(-100.0)
    z = learner.encode(x)
    matrix = learner._covariance(dict(learner.hyperparameters.items()), z, z)
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1 / 3], [0.0, 1 / 3, 1.0]])
    torch.testing.assert_close(matrix, expected)
    state = learner.adapt(Examples(x, x[:, :1]))
    assert learner.predict(state, x).isfinite().all()


@pytest.mark.parametrize("domain_kernel", ["none", "rbf"])
def test_mean_of_the_network_is_that_of_the_residuals_of_a_linear_function(domain_kernel):
    """The process on y - W^T g(x) of a constant mean, with W^T g(x) added again."""
    learner = build(domain_kernel=domain_kernel, mean="network")
    plain = build(domain_kernel=domain_kernel)
    weights = torch.randn(learner.network.n_features, N_WAY, dtype=torch.float64)
    assert not learner.hyperparameters["mean_weights"].any()
    with torch.no_grad():
        learner.hyperparameters["mean_weights"].copy_(weights)
    support, query = task(regression_tasks("mlp"), 0)
    known, new = (plain.embed(x) @ weights for x in (support.x, query.x))
    expected = plain.predict(plain.adapt(Examples(support.x, support.y - known)), query.x) + new
    state = learner.adapt(support)
    torch.testing.assert_close(learner.predict(state, query.x), expected)
    loss = learner.outer_loss(state, expected, learner.encode(query.x), query.y)
    rest = plain.adapt(Examples(support.x, support.y - known))
    of_plain = plain.outer_loss(rest, expected - new, plain.encode(query.x), query.y - new)
    torch.testing.assert_close(loss, of_plain)


@pytest.mark.parametrize(
    "settings", [{}, {"kernel": "linear", "domain_kernel": "tanimoto"}, {"inner_steps": 2}]
)
def test_empty_support_is_predicted_by_the_prior(settings):
    learner = build(**settings)
    support, query = task(regression_tasks("mlp"), 0)
    state = learner.adapt(Examples(support.x[:0], support.y[:0]))
    mean, variance = learner.predict_distribution(state, query.x)
    torch.testing.assert_close(mean, learner.hyperparameters["mean"].expand(len(query.x), -1))
    expected = prior(learner, query.x, query.x).diagonal() + math.exp(VALUES["log_noise"])
    np.testing.assert_allclose(variance.detach().numpy(), expected[:, None].repeat(N_WAY, 1))
    learner.outer_loss(state, mean, learner.encode(query.x), query.y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.network.backbone.parameters())


def test_regularizers_see_the_given_loss():
    learner = build(loss=lambda predictions, y: (predictions - y).abs().mean())
    adapted = AdaptedTasks(learner, regression_tasks("mlp"))
    expected = (adapted.query_predictions - adapted.tasks.query.y).abs().mean()
    torch.testing.assert_close(adapted.loss(adapted.query_predictions), expected)
