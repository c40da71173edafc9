"""The pose network: a convolutional encoder that all tasks share, and an adapted convolutional network."""

from collections.abc import Callable

from torch import nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.conv import ChannelsLastConv2d
from metalens.networks.norm import TransductiveBatchNorm

_MAP_SIZE = 14  # the encoder's 196 outputs are a picture of 14 x 14


def pose_net(
    n_outputs: int = 1,
    *,
    n_filters: int = 64,
    image_size: int = 128,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> Network:
    """Build the pose network: a shared encoder, then four adapted convolution blocks and a linear head.

    The encoder turns a view into a code of 196 numbers: 3x3 convolutions of stride 2 with 32 and 48
    channels, 2x2 max-pooling, one more with 64 channels, a linear layer; activations after convolutions.
    It is the first and only shared stage: no inner loop adapts it. The code, as a map of
    14x14, goes through four blocks of 3x3 convolution, `TransductiveBatchNorm` and activation, and is
    averaged over positions.

    Args:
        n_outputs: size of the target; 1 for an angle.
        n_filters: channels of every adapted block; also the number of features.
        image_size: height and width of the grey view: a multiple of 16 pixels.
        activation: makes the non-linearity.

    Returns:
        A `Network` with `(n, 1, image_size, image_size) -> (n, n_outputs)`.

    Raises:
        MetaLensError: a size is too small, or `image_size` no multiple of 16.

    >>> import torch
    >>> network = pose_net(n_filters=4, image_size=32)
    >>> network(torch.zeros(5, 1, 32, 32)).shape, network.n_shared
    (torch.Size([5, 1]), 1)

    Source: M. Yin, G. Tucker, M. Zhou, S. Levine, C. Finn, "Meta-Learning without Memorization", 2020,
    arXiv 1912.03820; layers as in their released code for meta-regularization of weights. Deviations: the
    encoder has plain weights, not a distribution of them; symmetric padding; the normalization has a scale,
    and adapts; PyTorch's default initialization.
    """
    if min(n_outputs, n_filters, image_size) < 1 or image_size % 16:
        raise MetaLensError(
            "pose_net needs n_outputs >= 1, n_filters >= 1 and image_size a multiple of 16 (four halvings), "
            f"got n_outputs={n_outputs}, n_filters={n_filters}, image_size={image_size}."
        )
    encoder = nn.Sequential(
        *(ChannelsLastConv2d(1, 32, 3, stride=2, padding=1), activation()),
        *(ChannelsLastConv2d(32, 48, 3, stride=2, padding=1), activation()),
        nn.MaxPool2d(2),
        *(ChannelsLastConv2d(48, 64, 3, stride=2, padding=1), activation()),
        nn.Flatten(),
        nn.Linear(64 * (image_size // 16) ** 2, _MAP_SIZE**2),
        nn.Unflatten(1, (1, _MAP_SIZE, _MAP_SIZE)),
    )
    blocks = [
        nn.Sequential(
            ChannelsLastConv2d(n_in, n_filters, 3, padding=1), TransductiveBatchNorm(n_filters), activation()
        )
        for n_in in (1, n_filters, n_filters, n_filters)
    ]
    backbone = nn.Sequential(encoder, *blocks, nn.AdaptiveAvgPool2d(1))
    head = nn.Linear(n_filters, n_outputs)
    return Network(backbone, head, n_features=n_filters, n_outputs=n_outputs, n_shared=1)
