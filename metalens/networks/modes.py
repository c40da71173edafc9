"""Training and evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def module_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module into training or evaluation mode, and restore the mode of every submodule at the end.

    >>> layer = nn.Dropout()
    >>> with module_mode(layer, training=False):
    ...     print(layer.training)
    False
    >>> layer.training
    True
    """
    modes = {child: child.training for child in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for child, before in modes.items():
            child.training = before
