"""Small networks to be wrapped."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from metalens import Examples, Network, Task, wrap

EXAMPLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def of(middle: nn.Module, width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Tanh(), nn.Linear(width, 2))


def wrapped(module: nn.Module, head: str = "3", example: torch.Tensor = EXAMPLE) -> Network:
    """Return the network, wrapped without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return wrap(module, head=head, example=example)


def text_tasks(words):
    y = torch.linspace(-1, 1, words[..., 0].numel() * 2).view(*words.shape[:2], 2)
    return Task(Examples(words, y), Examples(words.flip(1), y)).as_batch()
