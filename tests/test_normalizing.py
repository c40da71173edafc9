"""Normalization of `metalens.networks.normalizing`: every derivative is that of its formula."""

import copy

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vjp, vmap

from metalens import TransductiveBatchNorm
from metalens.networks.norm import make_norms_safe
from metalens.networks.normalizing import batch_norm

EPS = 1e-3
ONE, ZERO = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
SHAPES = [(4, 2), (4, 2, 3), (3, 2, 4, 5)]


def formula(x, dims=None):
    dims = dims or [0, *range(2, x.dim())]
    mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    return (x - mean) / (var + EPS).sqrt()


def numbers(shape, layout="first", seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1
    return x.to(memory_format=torch.channels_last) if layout == "last" else x


# The ways to make a product with the second derivative: forward over reverse, and so on.
ORDERS = {
    "forward over reverse": lambda f, v: lambda x: jvp(grad(f), (x,), (v,))[1],
    "reverse over forward": lambda f, v: lambda x: grad(lambda x: jvp(f, (x,), (v,))[1])(x),
    "reverse over reverse": lambda f, v: lambda x: vjp(grad(f), x)[1](v)[0],
}


def of(normalize, weights):
    return lambda x: (normalize(x).sin() * weights).sum()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("shape", "layout"), [*((shape, "first") for shape in SHAPES), (SHAPES[-1], "last")])
def test_second_and_third_derivatives_are_those_of_the_formula(shape, order, layout):
    x, weights, v, w = (numbers(shape, layout, seed) for seed in range(4))
    own, right = (
        ORDERS[order](of(f, weights), v) for f in (lambda x: batch_norm(x, ONE, ZERO, EPS), formula)
    )
    torch.testing.assert_close(batch_norm(x, ONE, ZERO, EPS), formula(x))
    torch.testing.assert_close(own(x), right(x))
    torch.testing.assert_close(vjp(own, x)[1](w), vjp(right, x)[1](w))
    xs = torch.stack([x, v])
    torch.testing.assert_close(vmap(own)(xs), vmap(right)(xs))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("layer", "dims"),
    [
        (TransductiveBatchNorm(2, EPS), (0, 2)),
        (nn.BatchNorm1d(2, EPS), (0, 2)),
        (nn.InstanceNorm1d(2, EPS, affine=True), (2,)),
        (nn.LayerNorm((2, 3), EPS), (1, 2)),
        (nn.GroupNorm(1, 2, EPS), (1, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_are_right_to_the_third_derivative(layer, dims, order):
    layer = nn.Sequential(copy.deepcopy(layer)).double()
    make_norms_safe(layer)
    x, weights, v, w = (numbers((4, 2, 3), seed=seed) for seed in range(4))
    own, right = (ORDERS[order](of(f, weights), v) for f in (layer, lambda x: formula(x, dims)))
    torch.testing.assert_close(own(x), right(x))
    torch.testing.assert_close(vjp(own, x)[1](w), vjp(right, x)[1](w))
    xs = torch.stack([x, v])
    torch.testing.assert_close(
        vmap(lambda x: vjp(own, x)[1](w)[0])(xs), vmap(lambda x: vjp(right, x)[1](w)[0])(xs)
    )


@pytest.mark.parametrize("order", ORDERS)
def test_derivatives_by_weight_and_bias_are_those_of_the_formula(order):
    weights = numbers((4, 2, 3), seed=9)

    def of_all(normalize):
        def function(t):
            x, weight, bias = t[:24].view(4, 2, 3), t[24:26], t[26:]
            return (normalize(x, weight, bias).sin() * weights).sum()

        return function

    own = of_all(lambda x, w, b: batch_norm(x, w, b, EPS))
    right = of_all(lambda x, w, b: formula(x) * w[:, None] + b[:, None])
    t, v, w = (numbers((28,), seed=seed) for seed in range(3))
    torch.testing.assert_close(grad(own)(t), grad(right)(t))
    own, right = (ORDERS[order](f, v) for f in (own, right))
    torch.testing.assert_close(own(t), right(t))
    torch.testing.assert_close(vjp(own, t)[1](w), vjp(right, t)[1](w))
