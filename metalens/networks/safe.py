"""Layers that are right when their parameters are adapted, in place of PyTorch's (torch 2.13).

- Weight normalization: its gradient is right, but the derivative of that gradient is not, under `torch.vmap`
  and without.
- Spectral normalization by power iteration keeps vectors that every call in training changes; the exact norm
  needs none.
- The dropout of fused attention cannot be nested in `torch.vmap`; that of explicit attention weights can.
- An embedding with a padding index: under `torch.vmap` the padding gets a gradient, too.

For normalization of activations see `metalens.networks.norm`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

from metalens.networks.norm import is_unsafe_norm, make_norms_safe


class _SafeWeightNorm(_WeightNorm):
    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        over = [axis for axis in range(weight_v.dim()) if axis != self.dim]  # all, where dim is -1
        return weight_v * weight_g / weight_v.square().sum(over, keepdim=True).sqrt()


class _SafeSpectralNorm(_SpectralNorm):
    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        return weight / torch.linalg.matrix_norm(self._reshape_weight_to_matrix(weight), 2)


class _SafeEmbedding(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # as PyTorch names it
        vectors = F.embedding(input, self.weight)
        return torch.where((input == self.padding_idx).unsqueeze(-1), vectors.detach(), vectors)


class _SafeAttention(nn.MultiheadAttention):
    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, *args: Any, **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        explicit = need_weights or (self.training and self.dropout > 0)
        output, weights = super().forward(query, key, value, key_padding_mask, explicit, *args, **kwargs)
        return output, weights if need_weights else None


def make_safe(module: nn.Module, *, keeps_statistics: bool = False) -> None:
    """Replace the layers of a module, in place, whose derivatives or state would be wrong when adapted.

    Parameters, their names and attributes stay. Normalization layers lose their running statistics, unless
    `keeps_statistics`, and spectral normalization the vectors of its power iteration.

    >>> from torch.nn.utils.parametrizations import weight_norm
    >>> module = nn.Sequential(weight_norm(nn.Linear(4, 5)))
    >>> make_safe(module)
    >>> is_unsafe(module[0].parametrizations.weight[0])
    False
    """
    make_norms_safe(module, keeps_statistics=keeps_statistics)
    for layer in module.modules():
        if type(layer) is _WeightNorm:
            layer.__class__ = _SafeWeightNorm
        elif type(layer) is _SpectralNorm:
            layer.__class__ = _SafeSpectralNorm
            for name in list(layer._buffers):
                del layer._buffers[name]
        elif type(layer) is nn.MultiheadAttention:
            layer.__class__ = _SafeAttention
        elif _has_padding(layer):
            layer.__class__ = _SafeEmbedding


def is_unsafe(layer: nn.Module) -> bool:
    """Return whether `make_safe` would replace a layer, or it derives from a normalization.

    >>> is_unsafe(nn.Embedding(5, 3, padding_idx=0)), is_unsafe(nn.Embedding(5, 3))
    (True, False)
    """
    return is_unsafe_norm(layer) or type(layer) in (_WeightNorm, _SpectralNorm) or _has_padding(layer)


def _has_padding(layer: nn.Module) -> bool:
    # Other settings change the weights or the kind of gradient, which `wrap` finds out by measuring.
    plain = type(layer) is nn.Embedding and layer.padding_idx is not None
    return plain and not (layer.max_norm or layer.scale_grad_by_freq or layer.sparse)
