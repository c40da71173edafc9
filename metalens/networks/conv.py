"""A convolution in the memory layout that is fastest on CPUs."""

import torch
from torch import Tensor, nn

from metalens.batching import is_vectorized


class ChannelsLastConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that uses the channels-last memory layout on a CPU.

    The values are the same. The output and the results of normalization, activations and pooling keep the
    layout, in which above all max-pooling is many times faster.

    Args: see `torch.nn.Conv2d`.

    Shapes:
        `(n, n_in, h, w) -> (n, n_out, h', w')`.

    >>> layer = ChannelsLastConv2d(1, 4, 3)
    >>> layer(torch.zeros(2, 1, 5, 5)).is_contiguous(memory_format=torch.channels_last)
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or is_vectorized():
            return super().forward(input)
        # Else the kernels' gradient has channels last too, and brings them into inner loops; views forget it.
        kernels = self.weight.flatten(1).view_as(self.weight)
        return self._conv_forward(_channels_last(input), kernels, self.bias)


def _channels_last(x: Tensor) -> Tensor:
    if x.stride(1) == 1:
        return x
    # Not `x.contiguous(memory_format=...)`, which does not change a single channel: read as channels first.
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
