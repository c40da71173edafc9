"""Normalization by the moments of a set, whose derivatives are right in any order and mode."""

from typing import Any

import torch
from torch import Tensor

from metalens.batching import is_transformed, is_vectorized


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return `w z + b` of x `(n, d, *positions)`, where z has mean 0 and variance 1 in each channel.

    `z = r (x - mean(x))`, `r = 1 / sqrt(var(x) + eps)`, with the biased variance. It can be differentiated in
    forward and reverse mode, in any order and number. The first derivative of z is a symmetric matrix,
    `J u = r (u - mean(u) - z mean(z u))`, so that one kernel serves both modes, and the second is symmetric
    too. Only x and slopes are kept.

    PyTorch's own batch normalization has wrong third derivatives, and a wrong second one in reverse over
    forward mode (torch 2.13), and takes 2 to 4 times as long in forward over reverse mode. Not right is
    forward mode twice over reverse mode, where PyTorch loses the derivative of every custom function.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> batch_norm(torch.tensor([[0.0], [2.0]]), one, zero, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    return _BatchNorm.apply(x, weight, bias, eps)[0]


class _Function(torch.autograd.Function):
    """A function that keeps its inputs, the last of which is eps."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


class _BatchNorm(_Function):
    """x, the weight, the bias and eps to the result, and to the mean and r, which are not differentiated."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.eps = inputs
        _, *moments = output
        ctx.mark_non_differentiable(*moments)
        ctx.save_for_backward(x, weight, *moments)
        ctx.save_for_forward(x, weight, *moments)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *moments = ctx.saved_tensors
        by_x, by_weight = _Slopes.apply(slopes[0], x, weight, *moments, ctx.eps)
        return by_x, by_weight, _sums(slopes[0]), None

    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> tuple[Tensor, None, None]:
        (of_x, of_weight, of_bias, _), (x, weight, *moments) = directions, ctx.saved_tensors
        change = _First.apply(of_x, x, *moments, ctx.eps)
        mean, r = _moments(x, moments, ctx.eps)
        offset = of_bias - of_weight * mean * r
        return change * _wide(weight, x) + x * _wide(of_weight * r, x) + _wide(offset, x), None, None


class _Slopes(_Function):
    """The backward pass: a slope g, x, the weight, the mean and r to the slopes `J (w g)` and `sum(g z)`."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return _kernel(g, x, weight, mean, r, eps)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (of_x, of_weight), (g, x, weight, *moments) = slopes, ctx.saved_tensors
        change, by_weight = _second(g, of_x, x, weight, moments, ctx.eps)
        by_x = change + _Slopes.apply(g, x, of_weight, *moments, ctx.eps)[0]
        mean, r = _moments(x, moments, ctx.eps)
        by_g = _First.apply(of_x, x, *moments, ctx.eps) * _wide(weight, x)
        by_g = by_g + x * _wide(of_weight * r, x) - _wide(of_weight * mean * r, x)
        return by_g, by_x, by_weight, None, None, None

    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> tuple[Tensor, Tensor]:
        (of_g, of_x, of_weight, *_), (g, x, weight, *moments) = directions, ctx.saved_tensors
        by_g, sums = _Slopes.apply(of_g, x, weight, *moments, ctx.eps)
        change, products = _second(g, of_x, x, weight, moments, ctx.eps)
        by_weight = _Slopes.apply(g, x, of_weight, *moments, ctx.eps)[0]
        return by_g + change + by_weight, sums + products


class _First(_Function):
    """The first derivative of z: u, x, the mean and r to J u."""

    @staticmethod
    def forward(u: Tensor, x: Tensor, mean: Tensor, r: Tensor, eps: float) -> Tensor:
        return _kernel(u, x, None, mean, r, eps)[0]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (u, x, *moments) = slopes, ctx.saved_tensors
        by_u = _First.apply(slope, x, *moments, ctx.eps)
        return by_u, _second(u, slope, x, None, moments, ctx.eps)[0], None, None, None

    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Tensor:
        (of_u, of_x, *_), (u, x, *moments) = directions, ctx.saved_tensors
        change, _ = _second(u, of_x, x, None, moments, ctx.eps)
        return _First.apply(of_u, x, *moments, ctx.eps) + change


def _kernel(
    u: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return `J (w u)` and the sums of `z u`: PyTorch's backward pass of batch normalization."""
    how = (None, None, mean, r, True, eps, [True, True, False])
    by_x, by_weight, _ = torch.ops.aten.native_batch_norm_backward(u, x, weight, *how)
    return by_x, by_weight


def _second(
    u: Tensor, v: Tensor, x: Tensor, weight: Tensor | None, moments: list[Tensor], eps: float
) -> tuple[Tensor, Tensor]:
    """Return the second derivative, the change of `J (w u)` along v, and the sums of `u J v`.

    It is `-w r^2 (b (u - mean(u)) + a (v - mean(v)) + z (cov(u, v) - 3 a b))` with `a = mean(z u)` and
    `b = mean(z v)`, and made of operations that can be differentiated further.
    """
    n, (mean, r) = x.numel() // x.shape[1], _moments(x, moments, eps)
    mean_u, mean_v = _sums(u) / n, _sums(v) / n
    a, b = r * (_products(x, u) / n - mean * mean_u), r * (_products(x, v) / n - mean * mean_v)
    covariance = _products(u, v) / n - mean_u * mean_v
    scale = -r * r if weight is None else -weight * r * r
    by_u, by_v, by_x = scale * b, scale * a, scale * r * (covariance - 3 * a * b)
    result = u * _wide(by_u, x) - _wide(by_u * mean_u + by_v * mean_v + by_x * mean, x)
    add = torch.Tensor.addcmul if is_vectorized() else torch.Tensor.addcmul_  # no vectorized form in place
    return add(add(result, v, _wide(by_v, x)), x, _wide(by_x, x)), n * r * (covariance - a * b)


def _moments(x: Tensor, moments: list[Tensor], eps: float) -> list[Tensor]:
    """Return the mean and r of x: the known ones, unless x is differentiated."""
    if not (torch.is_grad_enabled() or is_transformed()):
        return moments
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    return [mean, (var + eps).rsqrt()]


def _wide(of_channels: Tensor, x: Tensor) -> Tensor:
    return of_channels.view(-1, *[1] * (x.dim() - 2))


def _sums(x: Tensor) -> Tensor:
    return x.sum([0, *range(2, x.dim())])


def _products(x: Tensor, u: Tensor) -> Tensor:
    """Return the sums of x u over each channel."""
    if x.stride(1) == 1:  # in channels-last layout a product is cheaper than a copy
        return _sums(x * u)
    n, d = x.shape[:2]
    return torch.bmm(x.reshape(n * d, 1, -1), u.reshape(n * d, -1, 1)).view(n, d).sum(0)
