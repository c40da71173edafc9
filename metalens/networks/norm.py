"""Normalization that is right when its parameters are adapted, under `torch.vmap` and without.

Differentiating twice through PyTorch's fused batch, layer and instance normalization gives silently wrong
gradients under `torch.vmap` when the scale and shift are adapted (loss right, gradient off by up to some
percent; torch 2.13), and in every mode three times, as for the second derivative of an outer loss. The layers
here apply scale and shift outside, and in transforms normalize by operations that are right in any order:
single ones, `normalizing.batch_norm`, and group normalization. Elsewhere the fused operations are faster.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from metalens.batching import is_transformed, is_vectorized
from metalens.errors import MetaLensError
from metalens.networks.normalizing import batch_norm


class TransductiveBatchNorm(nn.Module):
    """Batch normalization with the statistics of the current set, support or query, of one task.

    `y = w (x - mean) / sqrt(var + eps) + b`, mean and (biased) variance over the set and all positions.
    Training and testing are the same function, as in the published MAML protocol. Predictions for a query
    set are transductive: they depend on the whole set. This is not
    "TaskNorm" (J. Bronskill and others, ICML 2020, arXiv 2003.03284), which normalizes support and query by
    the moments of the support, blended with those of each example by a learned weight.

    Args:
        n_channels: size d of axis 1 of the input.
        eps: added to the variance.

    Shapes:
        `(n, d, *positions) -> (n, d, *positions)`; n may be 0.

    Raises:
        MetaLensError: a set has a single value per channel, so that it has no variance.

    >>> x = torch.randn(8, 3, 5, 5)
    >>> bool(TransductiveBatchNorm(3)(x).mean((0, 2, 3)).abs().max() < 1e-6)
    True

    Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015, arXiv 1502.03167. Deviation: no running
    statistics.
    """

    def __init__(self, n_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return _batch_norm(x, self.weight, self.bias, self.eps)


class _SafeBatchNorm(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(input, self.weight, self.bias, self.eps)


class _FixedNorm(_BatchNorm):
    """Batch or instance normalization by running statistics that stay."""

    def forward(self, input: Tensor) -> Tensor:
        assert self.running_mean is not None  # by `make_norms_safe`
        assert self.running_var is not None
        shape = (-1, *[1] * (input.dim() - 2))
        scale = (self.running_var + self.eps).rsqrt().view(shape)
        x = (input - self.running_mean.view(shape)) * scale
        return _channel_affine(x, self.weight, self.bias)


class _SafeInstanceNorm(_InstanceNorm):
    def forward(self, input: Tensor) -> Tensor:
        x = F.group_norm(input, input.shape[1], eps=self.eps)  # each channel is a group
        return _channel_affine(x, self.weight, self.bias)


class _SafeLayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        if is_transformed():
            group = input.reshape(-1, 1, math.prod(self.normalized_shape))  # each example is one
            x = F.group_norm(group, 1, eps=self.eps).view_as(input)
        else:
            x = F.layer_norm(input, self.normalized_shape, eps=self.eps)
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


# By exact type: a subclass may compute something else, which `wrap` finds out by measuring.
_SAFE: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: _SafeLayerNorm,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _SafeBatchNorm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _SafeInstanceNorm),
}


def is_unsafe_norm(layer: nn.Module) -> bool:
    """Return whether a layer is a stock normalization, or derived from one, that was not made safe.

    >>> is_unsafe_norm(nn.LayerNorm(4)), is_unsafe_norm(nn.GroupNorm(2, 4))
    (True, False)
    """
    is_norm = isinstance(layer, (_BatchNorm, _InstanceNorm, nn.LayerNorm))
    return is_norm and not isinstance(layer, (_FixedNorm, _SafeBatchNorm, _SafeInstanceNorm, _SafeLayerNorm))


def uses_batch_statistics(layer: nn.Module) -> bool:
    """Return whether a layer normalizes an input by the statistics of all inputs of the call.

    >>> uses_batch_statistics(TransductiveBatchNorm(4)), uses_batch_statistics(nn.GroupNorm(2, 4))
    (True, False)
    """
    own = isinstance(layer, (TransductiveBatchNorm, _BatchNorm))
    return own and not isinstance(layer, _FixedNorm) and getattr(layer, "running_mean", None) is None


def has_learned_statistics(module: nn.Module) -> bool:
    """Return whether a normalization of a module has running statistics of data that it has seen.

    >>> layer = nn.BatchNorm1d(4)
    >>> before, _ = has_learned_statistics(layer), layer(torch.randn(8, 4))
    >>> before, has_learned_statistics(layer)
    (False, True)
    """
    return any(
        isinstance(layer, (_BatchNorm, _InstanceNorm))
        and layer.running_mean is not None
        and layer.running_var is not None
        and not (layer.running_mean.eq(0).all() and layer.running_var.eq(1).all())
        for layer in module.modules()
    )


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether a module has a batch normalization.

    >>> has_batch_norm(nn.Sequential(nn.BatchNorm1d(4))), has_batch_norm(nn.LayerNorm(4))
    (True, False)
    """
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def make_norms_safe(module: nn.Module, *, keeps_statistics: bool = False) -> None:
    """Replace the stock normalization layers of a module, in place, by ones that are right when adapted.

    Parameters, their names and attributes stay. Batch and instance normalization, and layers derived from
    them, lose their running statistics and use those of the current set; or, with `keeps_statistics`, use
    the running ones as in evaluation, in training too.

    >>> module = nn.Sequential(nn.BatchNorm1d(4))
    >>> make_norms_safe(module)
    >>> sorted(module.state_dict())
    ['0.bias', '0.weight']
    """
    for layer in module.modules():
        keeps = keeps_statistics and getattr(layer, "track_running_stats", False)
        if type(layer) in _SAFE:
            layer.__class__ = _FixedNorm if keeps else _SAFE[type(layer)]
        elif keeps and isinstance(layer, (_BatchNorm, _InstanceNorm)):  # a derived one
            frozen: Any = layer
            frozen.train = partial(_stay_in_evaluation, layer)
            frozen.train()
        if not keeps and isinstance(layer, (_BatchNorm, _InstanceNorm)):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _stay_in_evaluation(layer: nn.Module, mode: bool = True) -> nn.Module:
    layer.training = False
    for child in layer.children():
        child.train(mode)
    return layer


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    if x.shape[0] == 0:  # `len` would fix the number in an export
        return x
    if x.numel() // x.shape[1] < 2:
        raise MetaLensError(
            f"Batch normalization needs at least 2 values per channel, got input shape {tuple(x.shape)}; "
            "give more examples per set, or use a network without batch normalization."
        )
    if is_vectorized():  # where custom functions take three times as long
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0, keepdim=True)
        scale = (var + eps).rsqrt()
        scale = scale if weight is None else scale * weight.view(scale.shape)
        return _channel_affine((x - mean) * scale, None, bias)
    if is_transformed():
        ones, zeros = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
        return batch_norm(x, ones if weight is None else weight, zeros if bias is None else bias, eps)
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def _channel_affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
