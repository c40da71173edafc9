"""Normalization of `metalens.networks.normalizing`: every derivative is that of its formula."""

import copy

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vjp, vmap

from metalens import TransductiveBatchNorm
from metalens.batching import forward_mode_depth
from metalens.networks.norm import make_norms_safe
from metalens.networks.normalizing import normalized

EPS = 1e-3
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
    own, right = (ORDERS[order](of(f, weights), v) for f in (lambda x: normalized(x, EPS), formula))
    torch.testing.assert_close(normalized(x, EPS), formula(x))
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


def test_depth_of_forward_mode():
    one = torch.ones(())

    def depths(x):
        return x * forward_mode_depth()

    assert forward_mode_depth() == 0
    assert jvp(lambda x: jvp(depths, (x,), (one,))[0], (one,), (one,))[0] == 2
    assert grad(depths)(one) == 0
