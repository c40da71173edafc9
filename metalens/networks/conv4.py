"""The four-block convolutional network of the few-shot literature."""

import math
from typing import Literal, get_args

from torch import nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.conv import ChannelsLastConv2d
from metalens.networks.norm import TransductiveBatchNorm

Conv4Norm = Literal["batch", "group"]


def conv4(
    n_way: int = 5,
    *,
    n_filters: int = 64,
    in_channels: int = 1,
    image_size: int = 28,
    norm: Conv4Norm = "batch",
) -> Network:
    """Build Conv4: four blocks of 3x3 convolution, normalization, max-pooling and ReLU, and a linear head.

    Args:
        n_way: classes of a task.
        n_filters: channels of every block: 64, or 32 as MAML uses for miniImagenet.
        in_channels: 1 for grey images, 3 for color.
        image_size: height and width of the input, at least 16 pixels.
        norm: `"batch"` for `TransductiveBatchNorm`, by the current set; `"group"` for group normalization,
            with which predictions do not depend on other images.

    Returns:
        A `Network` with `(n, in_channels, image_size, image_size) -> (n, n_way)`.

    Raises:
        MetaLensError: a size is too small, or there is no such normalization.

    >>> import torch
    >>> conv4(n_way=5, n_filters=8)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 5])

    Source: O. Vinyals and others, "Matching Networks for One Shot Learning", 2016, arXiv 1606.04080.
    Deviations: statistics of the current set (`TransductiveBatchNorm`) or of each image (Y. Wu, K. He, "Group
    Normalization", 2018, arXiv 1803.08494), PyTorch's default initialization; pooling before ReLU, which is
    the same function on a quarter of the values.
    """
    if n_way < 2:
        raise MetaLensError(f"n_way must be at least 2, got {n_way}.")
    if image_size < 16 or n_filters < 1 or in_channels < 1:
        raise MetaLensError(
            "conv4 needs image_size >= 16 (four poolings), n_filters >= 1 and in_channels >= 1, "
            f"got image_size={image_size}, n_filters={n_filters}, in_channels={in_channels}."
        )
    if norm not in get_args(Conv4Norm):
        raise MetaLensError(f"norm must be one of {', '.join(get_args(Conv4Norm))}, got {norm!r}.")
    n_groups = math.gcd(8, n_filters)
    blocks = [
        nn.Sequential(
            ChannelsLastConv2d(in_channels if block == 0 else n_filters, n_filters, 3, padding=1),
            TransductiveBatchNorm(n_filters) if norm == "batch" else nn.GroupNorm(n_groups, n_filters),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
        for block in range(4)
    ]
    n_features = n_filters * (image_size // 16) ** 2
    head = nn.Linear(n_features, n_way)
    return Network(nn.Sequential(*blocks), head, n_features=n_features, n_outputs=n_way)
