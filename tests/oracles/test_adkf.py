"""ADKF against SciPy's minimizer, gradients through many steps, and differences of the bilevel function."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from small_networks import build_network, classification_tasks, regression_tasks
from torch.func import grad

from metalens import ADKF, Examples, MetaLensError, mlp
from metalens.learners.deep_kernel_gp import negative_log_density

FLOOR = 1e-4
ORDER = ("mean", "log_noise", "log_amplitude", "log_length_scale")


def build(**settings) -> ADKF:
    return ADKF(build_network("mlp"), **settings).double()


def task(tasks, number: int) -> tuple[Examples, Examples]:
    return tuple(Examples(e.x[number], e.y[number]) for e in tasks[:2])


def objective(theta: np.ndarray, z: np.ndarray, y: np.ndarray, start: np.ndarray, deviation: float) -> float:
    """Minus the log posterior density of mean, log noise, log amplitude and log length scale, with NumPy."""
    c = y.shape[1]
    noise, amplitude, scale = np.exp(theta[c:])
    squares = ((z[:, None] - z) ** 2).mean(2) / scale**2
    covariance = amplitude * np.exp(-squares / 2) + (noise + FLOOR * amplitude) * np.eye(len(z))
    density = sum(multivariate_normal(cov=covariance).logpdf(y[:, j] - theta[j]) for j in range(c))
    return ((theta - start) ** 2).sum() / (2 * deviation**2) - density


@pytest.mark.parametrize("deviation", [0.3, 1.0, 3.0])
def test_hyperparameters_are_those_of_a_minimizer(deviation):
    learner = build(deviation=deviation)
    support, _ = task(regression_tasks("mlp"), 1)
    state = learner.adapt(support)
    found, start = (
        np.concatenate([values[name].detach().numpy() for name in ORDER])
        for values in (state, learner.hyperparameters)
    )
    z = learner.embed(support.x).detach().numpy()
    settings = (z, support.y.numpy(), start, deviation)
    expected = minimize(objective, start, settings, method="BFGS", options={"gtol": 1e-7, "xrtol": 1e-9})
    np.testing.assert_allclose(found, expected.x, atol=1e-4)
    assert objective(found, *settings) <= expected.fun + 1e-9


def meta_loss(learner: ADKF, support: Examples, query: Examples) -> torch.Tensor:
    state = learner.adapt(support)
    z = learner.encode(query.x)
    return learner.outer_loss(state, learner.predict_encoded(state, z), z, query.y)


@pytest.mark.parametrize("tasks", [classification_tasks, regression_tasks])
@pytest.mark.parametrize(
    "settings", [{}, {"domain_kernel": "rbf", "kernel": "matern52"}, {"mean": "network", "deviation": 0.5}]
)
def test_gradient_equals_differences_of_the_bilevel_function(settings, tasks):
    learner = build(**{"inner_steps": 8, "deviation": 0.5, **settings})
    support, query = task(tasks("mlp"), 0)
    meta_loss(learner, support, query).backward()
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for part in (learner.network, learner.hyperparameters):
        parameters = list(part.parameters())
        moves = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        losses = []
        with torch.no_grad():
            for size in (step, -2 * step, step):  # forth, back, and home
                for parameter, move in zip(parameters, moves, strict=True):
                    parameter.add_(size * move)
                losses.append(meta_loss(learner, support, query).item())
        slope = sum((p.grad * move).sum().item() for p, move in zip(parameters, moves, strict=True))
        assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_gradient_equals_that_through_many_steps():
    learner = build()
    support, query = task(regression_tasks("mlp"), 2)
    parameters = list(learner.parameters())
    implicit = torch.autograd.grad(meta_loss(learner, support, query), parameters)
    z, hyper, adapted = learner.encode(support.x), {**learner.hyperparameters}, learner.adapted_parameters()

    def loss(values):
        state = learner._condition({**hyper, **values}, z, support.y)
        near = sum((values[name] - adapted[name]).square().sum() for name in values)
        return negative_log_density(state["cholesky"], state["residuals"]) + near / 2

    values = dict(adapted)
    for _ in range(1500):
        gradients = grad(loss)(values)
        values = {name: value - 0.03 * gradients[name] for name, value in values.items()}
    state = learner._condition({**hyper, **values}, z, support.y)
    zq = learner.encode(query.x)
    outer = learner.outer_loss(state, learner.predict_encoded(state, zq), zq, query.y)
    torch.testing.assert_close(torch.autograd.grad(outer, parameters), implicit, rtol=1e-5, atol=1e-8)


def test_without_support_hyperparameters_are_the_learned_ones():
    learner = build(mean="network")
    support, query = task(regression_tasks("mlp"), 0)
    state = learner.adapt(Examples(support.x[:0], support.y[:0]))
    for name, value in learner.hyperparameters.items():
        torch.testing.assert_close(state[name], value)
    mean, variance = learner.predict_distribution(state, query.x)
    torch.testing.assert_close(mean, learner.hyperparameters["mean"].expand(len(query.x), -1))
    assert (variance > 0).all()


def test_converges_from_far_away_in_single_precision():
    torch.manual_seed(0)
    learner = ADKF(mlp(1, 1, [16]), noise=1e-3)
    x = torch.linspace(-3, 3, 40).unsqueeze(1)
    state = learner.adapt(Examples(x, 100 + 30 * torch.randn(40, 1)))
    assert all(value.isfinite().all() for value in state.values())
    assert learner.predict(state, x).sub(100).abs().mean() < 60


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"deviation": 0.0}, "^ADKF: deviation must be above 0"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"kernel": "tanimoto"}, "^ADKF: kernel must be one of rbf, matern52, linear, got 'tanimoto'"),
        ({"mean": "zero"}, "^ADKF: mean must be one of constant, network, got 'zero'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        ADKF(mlp(), **settings)
