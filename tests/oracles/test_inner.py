"""Inner optimizers against those of PyTorch, and their derivatives against finite differences."""

import copy

import pytest
import torch
from torch import nn

from metalens import MAML, Examples, MetaLensError, mlp
from metalens.learners.inner import InnerOptimizer


def support() -> Examples:
    generator = torch.Generator().manual_seed(0)
    return Examples(*torch.randn(2, 6, 1, generator=generator, dtype=torch.float64))


def by_pytorch(learner: MAML, make_optimizer, examples: Examples, steps: int, clip: float | None) -> dict:
    """The inner loop as ordinary training of a copy of the network."""
    network = copy.deepcopy(learner.network)
    optimizer = make_optimizer(network.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(examples.x), examples.y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
    return dict(network.named_parameters())


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(
    ("settings", "make_optimizer"),
    [
        ({}, lambda p: torch.optim.SGD(p, lr=0.1)),
        ({"inner_momentum": 0.7}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7)),
        ({"inner_optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.999))),
        (
            {"inner_optimizer": "adam", "inner_momentum": 0.9},
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.999)),
        ),
    ],
)
def test_equals_pytorch(settings, make_optimizer, clip):
    torch.manual_seed(1)
    network = mlp(1, 1, [5, 4], activation=nn.Tanh).double()
    learner = MAML(network, inner_lr=0.1, inner_steps=4, inner_clip=clip, **settings)
    expected = by_pytorch(learner, make_optimizer, support(), steps=4, clip=clip)
    state = learner.adapt(support())
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_a_gradient_below_the_limit_is_not_clipped():
    gradients = {"a": torch.tensor([0.3]), "b": torch.tensor([0.4])}
    for clip, expected in ((1.0, 0.3), (0.5, 0.3), (0.25, 0.15)):
        directions, _ = InnerOptimizer("sgd", clip=clip)(gradients, {}, 0)
        torch.testing.assert_close(directions["a"], torch.tensor([expected]))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_zero_gradients_keep_finite_derivatives(name):
    gradient = torch.zeros(2, requires_grad=True)
    directions, _ = InnerOptimizer(name, 0.5, clip=1.0)({"w": gradient}, {}, 0)
    (derivative,) = torch.autograd.grad(directions["w"].sum(), gradient)
    assert derivative.isfinite().all()


def test_adam_keeps_its_constants():
    directions, memory = InnerOptimizer("adam", 0.5)({"w": torch.tensor([2.0])}, {}, 0)
    torch.testing.assert_close(directions["w"], torch.ones(1))
    torch.testing.assert_close(memory["second"]["w"], torch.tensor([0.004]))
    small, _ = InnerOptimizer("adam")({"w": torch.tensor([1e-8], dtype=torch.float64)}, {}, 0)
    torch.testing.assert_close(small["w"].item(), 0.5**0.5)


def test_plain_descent_remembers_nothing():
    gradients = {"w": torch.ones(1)}
    assert InnerOptimizer()(gradients, {}, 3) == (gradients, {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lbfgs"}, "inner_optimizer must be sgd or adam, got 'lbfgs'"),
        ({"momentum": 1.0}, "inner_momentum must be 0 or more and below 1, got 1.0"),
        ({"momentum": -0.1}, "inner_momentum must be 0 or more and below 1, got -0.1"),
        ({"clip": 0.0}, "inner_clip must be above 0 and finite, or None, got 0.0"),
        ({"clip": float("inf")}, "inner_clip must be above 0 and finite, or None, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        InnerOptimizer(**{"name": "sgd", **settings})
    InnerOptimizer("sgd", momentum=0.0, clip=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner_lr": 0.0}, "inner_lr must be above 0 and finite, got 0.0"),
        ({"inner_lr": float("inf")}, "inner_lr must be above 0 and finite, got inf"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"test_inner_steps": -1}, "test_inner_steps must be 0 or more, got -1"),
    ],
)
def test_settings_of_the_loop_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        MAML(mlp(), **settings)
    MAML(mlp(), inner_lr=0.5, inner_steps=1, test_inner_steps=0)


def test_defaults_of_the_loop():
    learner = MAML(mlp())
    assert (learner.inner_lr, learner.inner_steps, learner.test_inner_steps) == (0.01, 1, 1)
    assert learner.first_order is False
    assert learner.inner_optimizer == InnerOptimizer("sgd", momentum=0.0, clip=None)
