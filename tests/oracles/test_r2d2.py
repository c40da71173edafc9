"""R2D2 against the primal solution of ridge regression in NumPy, and scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from small_networks import N_WAY, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import R2D2, AdaptedTasks, Examples, MetaLensError, Network, Objective, mlp
from metalens.estimators.models import for_classes
from metalens.learners.classification import indicator_targets

TASKS = {"classification": classification_tasks, "regression": regression_tasks}


def identity_network(d: int, n_outputs: int = N_WAY) -> Network:
    """Features are the inputs."""
    return Network(nn.Identity(), nn.Linear(d, n_outputs), n_features=d, n_outputs=n_outputs).double()


def by_sklearn(learner: R2D2, support: Examples, query_x: torch.Tensor) -> np.ndarray:
    """alpha * ridge regression on [features, 1] without a further intercept, one column per class."""
    with torch.no_grad():
        z, zq = (learner.embed(x).numpy() for x in (support.x, query_x))
    z, zq = (np.concatenate([features, np.ones((len(features), 1))], 1) for features in (z, zq))
    y = support.y.numpy()
    if not support.y.is_floating_point():
        y = np.array([[1.0 if label == k else 0.0 for k in range(N_WAY)] for label in y])
    ridge = Ridge(alpha=float(np.exp(learner.log_ridge.item())), fit_intercept=False, tol=1e-14)
    return learner.scale.item() * ridge.fit(z, y).predict(zq)


@pytest.mark.parametrize("kind", TASKS)
def test_equals_sklearn(kind):
    learner = R2D2(build_network("mlp"), ridge=0.3, scale=1.7).double()
    tasks = TASKS[kind]("mlp")
    predictions = AdaptedTasks(learner, tasks).query_predictions.detach().numpy()
    for number in range(len(predictions)):
        support = Examples(tasks.support.x[number], tasks.support.y[number])
        expected = by_sklearn(learner, support, tasks.query.x[number])
        np.testing.assert_allclose(predictions[number], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("s", "d"), [(4, 7), (20, 3)])
def test_the_dual_equals_the_primal_solution(s, d):
    """W = (Z^T Z + lambda I)^-1 Z^T Y, with fewer and with more examples than features."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(s, d)), rng.normal(size=(s, N_WAY))
    learner = R2D2(identity_network(d), ridge=0.5).double()
    state = learner.adapt(Examples(torch.tensor(z), torch.tensor(y)))
    rows = np.concatenate([z, np.ones((s, 1))], 1)
    expected = np.linalg.solve(rows.T @ rows + 0.5 * np.eye(d + 1), rows.T @ y)
    np.testing.assert_allclose(state["weights"].detach().numpy(), expected, rtol=1e-6, atol=1e-9)


def test_a_small_ridge_interpolates_and_a_large_one_shrinks_to_zero():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, N_WAY, generator=generator, dtype=torch.float64)
    x = torch.cat([x, x**2], 1)
    for ridge, target in ((1e-9, y), (1e9, torch.zeros_like(y))):
        learner = R2D2(identity_network(2 * N_WAY), ridge=ridge).double()
        predictions = learner.predict(learner.adapt(Examples(x, y)), x)
        torch.testing.assert_close(predictions, target, rtol=0, atol=1e-6)


def test_the_intercept_fits_a_constant():
    x = torch.zeros(4, N_WAY, dtype=torch.float64)
    learner = R2D2(identity_network(N_WAY), ridge=1.0).double()
    predictions = learner.predict(learner.adapt(Examples(x, torch.full_like(x, 5.0))), x)
    torch.testing.assert_close(predictions, torch.full_like(x, 4.0))  # 5 s / (s + lambda)


@pytest.mark.parametrize("kind", TASKS)
def test_gradients_of_ridge_and_scale_equal_finite_differences(kind):
    objective = Objective(R2D2(build_network("mlp"), ridge=0.3, scale=1.7)).double()
    tasks = TASKS[kind]("mlp")
    learner = objective.learner
    parameters = [learner.log_ridge, learner.scale, next(learner.network.parameters())]
    gradients = torch.autograd.grad(objective(tasks)["query"], parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        entry, h, values = parameter.data.view(-1)[:1], 1e-5, []
        for move in (h, -2 * h):
            entry += move
            values.append(objective(tasks)["query"].item())
        entry += h
        difference = (values[0] - values[1]) / (2 * h)
        assert abs(difference) > 1e-6
        np.testing.assert_allclose(gradient.flatten()[0].item(), difference, rtol=1e-5)


def test_defaults_and_what_is_kept_of_the_network():
    learner = R2D2(mlp(5, N_WAY, [8]))
    assert (learner.log_ridge.item(), learner.scale.item()) == (0.0, 1.0)
    assert learner.n_outputs == N_WAY
    assert {name for name, _ in learner.named_parameters()} == {
        "log_ridge",
        "scale",
        "network.backbone.0.0.weight",
        "network.backbone.0.0.bias",
    }
    support = Examples(torch.randn(10, 5), torch.arange(10) % 5)
    assert R2D2(mlp(5, N_WAY, [8]), n_outputs=5)(support)(support.x).shape == (10, 5)
    one = Examples(torch.randn(4, 5), torch.randn(4, 1))
    assert R2D2(mlp(5, N_WAY, [8]), n_outputs=1)(one)(one.x).shape == (4, 1)


def test_a_loss_of_ones_own_is_used():
    learner = R2D2(build_network("mlp"), loss=lambda predictions, y: (predictions - y).abs().mean()).double()
    adapted = AdaptedTasks(learner, regression_tasks("mlp"))
    difference = (adapted.query_predictions - adapted.tasks.query.y).abs().mean()
    torch.testing.assert_close(adapted.outer_loss, difference)


def bayesian(d=4, ridge=0.7, variance=2.5, seed=0):
    """A learner on inputs as features, with prior weights and a prior variance of the level."""
    learner = R2D2(identity_network(d), ridge=ridge, scale=1.3, prior_mean=True).double()
    generator = torch.Generator().manual_seed(seed)
    learner.prior_weights.data = torch.randn(d + 1, N_WAY, generator=generator, dtype=torch.float64)
    learner.log_level.data += float(np.log(variance))
    return learner


@pytest.mark.parametrize("s", [1, 3, 20])
def test_a_prior_mean_gives_the_posterior_mean_of_the_bayesian_linear_model(s):
    """(Z^T Z / lambda + S^-1)^-1 (Z^T Y / lambda + S^-1 W_0), the primal form with a full prior."""
    learner, rng = bayesian(), np.random.default_rng(s)
    x, y, new = rng.normal(size=(s, 4)), rng.normal(size=(s, N_WAY)), rng.normal(size=(6, 4))
    z, zn = (np.concatenate([part, np.ones((len(part), 1))], 1) for part in (x, new))
    precision = np.diag([1, 1, 1, 1, 1 / 2.5])
    prior = learner.prior_weights.detach().numpy()
    weights = np.linalg.solve(z.T @ z / 0.7 + precision, z.T @ y / 0.7 + precision @ prior)
    model = learner(Examples(torch.tensor(x), torch.tensor(y)))
    np.testing.assert_allclose(model(torch.tensor(new)).detach().numpy(), 1.3 * zn @ weights, rtol=1e-9)


@pytest.mark.parametrize("classes", [False, True])
def test_an_empty_support_leaves_the_prior_weights(classes):
    learner, x = bayesian(), torch.randn(5, 4, dtype=torch.float64)
    y = torch.zeros(0, dtype=torch.int64) if classes else torch.zeros(0, N_WAY, dtype=torch.float64)
    predictions = learner(Examples(torch.zeros(0, 4, dtype=torch.float64), y))(x)
    expected = 1.3 * (x @ learner.prior_weights[:-1] + learner.prior_weights[-1])
    torch.testing.assert_close(predictions, expected)


def test_a_prior_mean_starts_as_the_plain_learner():
    torch.manual_seed(0)
    network, tasks = mlp(5, N_WAY, [8]), regression_tasks("mlp")
    plain, prior = (R2D2(network, prior_mean=on).double() for on in (False, True))
    one, other = (AdaptedTasks(learner, tasks).query_predictions for learner in (plain, prior))
    torch.testing.assert_close(one, other)


def test_prior_weights_fit_one_number_of_classes():
    assert for_classes(R2D2(mlp(5, 3, [4])), 2).n_outputs == 2
    learner = R2D2(mlp(5, 3, [4]), prior_mean=True)
    assert for_classes(learner, 3).n_outputs == 3
    with pytest.raises(MetaLensError, match="prior weights of 3 classes, got 2; use prior_mean=False"):
        for_classes(learner, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_outputs": 0}, "^R2D2: n_outputs must be at least 1, got 0.$"),
        ({"ridge": 0.0}, "^R2D2: ridge must be above 0 and finite, got 0.0.$"),
        ({"ridge": float("inf")}, "^R2D2: ridge must be above 0 and finite, got inf.$"),
        ({"scale": -1.0}, "^R2D2: scale must be above 0 and finite, got -1.0.$"),
        ({"scale": float("nan")}, "^R2D2: scale must be above 0 and finite, got nan.$"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        R2D2(mlp(), **settings)


def test_targets_that_do_not_fit_are_refused():
    z = torch.zeros(4, 7)
    with pytest.raises(MetaLensError, match=r"^Class targets need one output .* or n_outputs.$"):
        indicator_targets(torch.zeros(4, dtype=torch.int64), z, 1)
    for y in (torch.zeros(4), torch.zeros(4, 2), torch.zeros(3, 3), torch.zeros(4, dtype=torch.int32)):
        with pytest.raises(MetaLensError, match=r"\(4, 3\)|\(4,\)"):
            indicator_targets(y, z, 3)
    assert indicator_targets(torch.arange(2), z[:2].double(), 2).dtype == torch.float64
