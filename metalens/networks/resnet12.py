"""The residual network of the few-shot literature."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.norm import TransductiveBatchNorm


def resnet12(
    n_way: int = 5,
    *,
    widths: Sequence[int] = (64, 160, 320, 640),
    in_channels: int = 3,
    image_size: int = 84,
    activation: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.1),
) -> Network:
    """Build ResNet-12: four residual blocks of three convolutions, average pooling, and a linear head.

    A block is `pool(a(n(c(a(n(c(a(n(c(x)))))))) + n(s(x))))` with 3x3 convolutions c, a 1x1 convolution s,
    `TransductiveBatchNorm` n, activation a and 2x2 max-pooling. The default has 12.4 million parameters,
    widths of 64, 128, 256 and 512 have 8.0 million.

    Args:
        n_way: classes of a task.
        widths: channels of the four blocks; the last one is the number of features.
        in_channels: 3 for color images, 1 for grey ones.
        image_size: height and width of the input, at least 16 pixels.
        activation: makes the non-linearity.

    Returns:
        A `Network` with `(n, in_channels, image_size, image_size) -> (n, n_way)`.

    Raises:
        MetaLensError: a size is too small, or there are not four widths.

    >>> import torch
    >>> resnet12(widths=(4, 4, 8, 8), image_size=16)(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 5])

    Source: B. Oreshkin, P. Rodriguez, A. Lacoste, "TADAM: Task dependent adaptive metric for improved
    few-shot learning", 2018, arXiv 1805.10123; with these widths and LeakyReLU K. Lee, S. Maji,
    A. Ravichandran, S. Soatto, "Meta-Learning with Differentiable Convex Optimization", 2019, arXiv
    1904.03758. Deviations: statistics of the current set (`TransductiveBatchNorm`), no DropBlock or dropout,
    average pooling over all positions where the released code of the latter flattens the last map, PyTorch's
    default initialization.
    """
    if n_way < 2:
        raise MetaLensError(f"n_way must be at least 2, got {n_way}.")
    if len(widths) != 4 or min(*widths, in_channels) < 1 or image_size < 16:
        raise MetaLensError(
            "resnet12 needs four widths >= 1, in_channels >= 1 and image_size >= 16 (four poolings), "
            f"got widths={tuple(widths)}, in_channels={in_channels}, image_size={image_size}."
        )
    blocks = [
        _ResidualBlock(n_in, n_out, activation)
        for n_in, n_out in zip((in_channels, *widths[:-1]), widths, strict=True)
    ]
    head = nn.Linear(widths[-1], n_way)
    backbone = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1))
    return Network(backbone, head, n_features=widths[-1], n_outputs=n_way)


class _ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(_convolution(n_in, n_out, 3), activation()),
            *(_convolution(n_out, n_out, 3), activation()),
            _convolution(n_out, n_out, 3),
        )
        self.shortcut = _convolution(n_in, n_out, 1)
        self.end = nn.Sequential(activation(), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.residual(x) + self.shortcut(x))


def _convolution(n_in: int, n_out: int, size: int) -> nn.Module:
    convolution = nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False)  # normalization removes a bias
    return nn.Sequential(convolution, TransductiveBatchNorm(n_out))
