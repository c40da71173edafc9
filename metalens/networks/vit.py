"""A small Vision Transformer."""

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.norm import make_norms_safe


def vit(
    n_way: int = 5,
    *,
    image_size: int = 28,
    patch_size: int = 7,
    in_channels: int = 1,
    width: int = 64,
    depth: int = 4,
    n_heads: int = 4,
    mlp_ratio: int = 2,
) -> Network:
    """Build a Vision Transformer on square patches, with a linear head on the mean over patches.

    `z = E(patches) + p`; in every block `z = z + attention(norm(z))`, `z = z + mlp(norm(z))`; features are
    the mean of `norm(z)` over patches. Stages: the embedding, the blocks, the last norm with the mean.

    Args:
        n_way: classes of a task.
        image_size: height and width of the input, a multiple of `patch_size`.
        patch_size: height and width of a patch.
        in_channels: 1 for grey images, 3 for color.
        width: size of a patch's representation, a multiple of `n_heads`; also the number of features.
        depth: number of blocks.
        n_heads: number of attention heads.
        mlp_ratio: hidden size of the perceptron in a block, as a multiple of `width`.

    Returns:
        A `Network` with `(n, in_channels, image_size, image_size) -> (n, n_way)`.

    Raises:
        MetaLensError: a size is too small, or not the multiple that it must be.

    >>> import torch
    >>> vit(n_way=5)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 5])

    Source: A. Dosovitskiy and others, "An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale", 2021, arXiv 2010.11929. Deviations: the mean over patches instead of a class token, no dropout,
    small sizes by default, PyTorch's default initialization of the layers.
    """
    if n_way < 2:
        raise MetaLensError(f"n_way must be at least 2, got {n_way}.")
    if min(image_size, patch_size, in_channels, width, depth, n_heads, mlp_ratio) < 1:
        raise MetaLensError(
            f"vit needs sizes of at least 1, got image_size={image_size}, patch_size={patch_size}, "
            f"in_channels={in_channels}, width={width}, depth={depth}, n_heads={n_heads}, "
            f"mlp_ratio={mlp_ratio}."
        )
    if image_size % patch_size or width % n_heads:
        raise MetaLensError(
            "vit needs image_size to be a multiple of patch_size, and width a multiple of n_heads, "
            f"got image_size={image_size}, patch_size={patch_size}, width={width}, n_heads={n_heads}."
        )
    backbone = nn.Sequential(
        _Embedding(in_channels, patch_size, (image_size // patch_size) ** 2, width),
        *(_Block(width, n_heads, mlp_ratio * width) for _ in range(depth)),
        _Pooling(width),
    )
    make_norms_safe(backbone)
    return Network(backbone, nn.Linear(width, n_way), n_features=width, n_outputs=n_way)


class _Embedding(nn.Module):
    """A linear layer on each patch of images, plus learned embeddings of positions."""

    def __init__(self, in_channels: int, patch_size: int, n_patches: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Linear(in_channels * patch_size**2, width)
        self.positions = nn.Parameter(0.02 * torch.randn(n_patches, width))

    def forward(self, x: Tensor) -> Tensor:
        side = self.patch_size
        patches = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (n, c, rows, side, columns, side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (n, patches, c * side * side)
        return self.projection(patches) + self.positions


class _Block(nn.Module):
    def __init__(self, width: int, n_heads: int, n_hidden: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, n_heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, n_hidden), nn.GELU(), nn.Linear(n_hidden, width)
        )

    def forward(self, z: Tensor) -> Tensor:
        z = z + self.attention(z)
        return z + self.mlp(z)


class _Attention(nn.Module):
    """`softmax(Q K^T / sqrt(d)) V` in every head, written out: fused attention has no second derivative."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, z: Tensor) -> Tensor:
        heads = self.queries_keys_values(z).unflatten(-1, (3, self.n_heads, -1))  # (n, patches, 3, heads, d)
        q, k, v = heads.transpose(1, 3).unbind(2)  # (n, heads, patches, d)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).flatten(2))


class _Pooling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(z).mean(1)
