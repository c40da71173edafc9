"""The perceptron of the drug-activity benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from metalens.networks.base import Network
from metalens.networks.mlp import mlp


def drug_net(n_bits: int = 1024, hidden: Sequence[int] = (500, 500)) -> Network:
    """Build the drug-activity network: an `mlp` with `TransductiveBatchNorm`, LeakyReLU(0.01) and one output.

    Args:
        n_bits: length of a molecule's fingerprint.
        hidden: sizes of the hidden layers; the last one is the number of features.

    Returns:
        A `Network` with `(n, n_bits) -> (n, 1)`.

    Raises:
        MetaLensError: a size is below 1, or there is no hidden layer.

    >>> import torch
    >>> drug_net()(torch.zeros(5, 1024)).shape
    torch.Size([5, 1])

    Source: H. Yao and others, "Improving Generalization in Meta-learning via Task Augmentation", 2021,
    arXiv 2007.13040. Deviations: a linear output, to which their released code applies LeakyReLU; scale and
    shift of the normalization adapt, where that code keeps a pair for each inner step; PyTorch's default
    initialization.
    """
    return mlp(n_bits, 1, hidden, activation=nn.LeakyReLU, norm=True)
