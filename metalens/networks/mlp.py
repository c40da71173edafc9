"""Multi-layer perceptron."""

from collections.abc import Callable, Sequence

from torch import nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.norm import TransductiveBatchNorm


def mlp(
    n_inputs: int = 1,
    n_outputs: int = 1,
    hidden: Sequence[int] = (40, 40),
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: bool = False,
) -> Network:
    """Build a perceptron whose last layer is the head.

    Args:
        n_inputs: size of the input.
        n_outputs: size of the output: targets, or classes of a task.
        hidden: sizes of the hidden layers; the last one is the number of features.
        activation: makes the non-linearity.
        norm: put a `TransductiveBatchNorm` before each non-linearity.

    Returns:
        A `Network` with `(n, n_inputs) -> (n, n_outputs)`.

    Raises:
        MetaLensError: a size is below 1, or there is no hidden layer.

    >>> import torch
    >>> mlp(1, 1)(torch.zeros(10, 1)).shape
    torch.Size([10, 1])

    Source: the default 1-40-40-1 with ReLU is the sinusoid network of C. Finn and others, 2017,
    arXiv 1703.03400. Deviation: PyTorch's default initialization.
    """
    if not hidden or min(n_inputs, n_outputs, *hidden) < 1:
        raise MetaLensError(
            "mlp needs at least one hidden layer and sizes of at least 1, "
            f"got n_inputs={n_inputs}, hidden={tuple(hidden)}, n_outputs={n_outputs}."
        )
    blocks = [
        nn.Sequential(nn.Linear(n_in, n_out), *([TransductiveBatchNorm(n_out)] if norm else []), activation())
        for n_in, n_out in zip((n_inputs, *hidden[:-1]), hidden, strict=True)
    ]
    head = nn.Linear(hidden[-1], n_outputs)
    return Network(nn.Sequential(*blocks), head, n_features=hidden[-1], n_outputs=n_outputs)
