"""A stand-in for timm."""

from types import SimpleNamespace

import torch
from torch import nn


class StandIn(nn.Module):
    """What `timm_model` uses of a model of timm."""

    def __init__(
        self, n_way: int, in_channels: int, size: int | None, n_heads: int, norm: type | None = None
    ) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Conv2d(in_channels, 4, 3)
        self.norm = (norm or Norm)(4)
        self.fc = nn.Linear(4, n_way)
        self.n_heads = n_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.size is None or x.shape[2:] == self.size, "size does not match"
        return self.fc(self.norm(self.stem(x).tanh().mean((2, 3))))

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        return self.fc if self.n_heads == 1 else (self.fc, self.stem)


class Norm(nn.LayerNorm):
    """Stands for timm's own layer normalization."""


def stand_in_for_timm() -> SimpleNamespace:
    """A module with the functions of timm that are used, and what they were called with."""
    calls = []

    def create_model(name, *, pretrained, num_classes, in_chans, img_size):
        calls.append(SimpleNamespace(name=name, pretrained=pretrained, img_size=img_size))
        if pretrained:
            raise OSError("no connection.")
        norm = nn.BatchNorm1d if name == "batch" else Norm
        return StandIn(num_classes, in_chans, img_size, n_heads=2 if name == "two_heads" else 1, norm=norm)

    def get_pretrained_cfg(name):
        return SimpleNamespace(
            input_size=(3, 10, 12),
            fixed_input_size=name == "fixed",
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.3, 0.4),
        )

    names = ["free", "fixed", "two_heads", "batch"]
    return SimpleNamespace(
        calls=calls,
        create_model=create_model,
        get_pretrained_cfg=get_pretrained_cfg,
        is_model=lambda name: name in names,
        list_models=lambda: names,
        layers=SimpleNamespace(LayerNorm=Norm),
    )
