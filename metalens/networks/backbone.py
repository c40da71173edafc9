"""A backbone for images of one's own, by settings that a file can hold."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError, reraise_as
from metalens.networks.base import Network
from metalens.networks.timm_model import built_model, load_weights
from metalens.networks.wrap import wrap


@dataclass(frozen=True)
class Backbone:
    """A model of timm for images in [-1, 1], with weights of a file that is known by its hash.

    Attributes:
        name: of the model.
        weights: file of pretrained weights; the network keeps the statistics of their normalization.
        sha256: hash of this file.
        is_saved: its weights will be those that a training saved, so that no file is read.

    >>> Backbone.of("resnet18", None)
    Backbone(name='resnet18', weights=None, sha256=None, is_saved=False)
    """

    name: str
    weights: str | None = None
    sha256: str | None = None
    is_saved: bool = False

    @classmethod
    def of(cls, name: str | None, weights: str | None, sha256: str | None = None) -> Self | None:
        """Return the backbone of some settings, with the hash of its weights; `None` without a name.

        Raises:
            MetaLensError: there are weights without a name, a hash without weights, or no such file.
        """
        if name is None and (weights is not None or sha256 is not None):
            raise MetaLensError("weights are those of a backbone; name it, such as backbone='resnet18'.")
        if weights is None and sha256 is not None:
            raise MetaLensError("weights_sha256 is the hash of a file; give its path as weights.")
        if name is None:
            return None
        return cls(name, weights, file_hash(weights) if weights is not None and sha256 is None else sha256)

    def network(self, n_way: int, in_channels: int, image_size: int) -> Network:
        """Return a new network.

        Raises:
            MetaLensError: the file of weights has another hash, or see `timm_model`.
        """
        built = built_model(self.name, n_way, in_channels, image_size)
        if self.weights is not None:
            self._load(built.model, built.head)
        normalized = _Normalized(built.mean, built.std, in_channels)
        model = nn.Sequential(OrderedDict(normalized=normalized, model=built.model))
        statistics = "task" if self.weights is None else "pretrained"
        example = torch.randn(4, in_channels, *built.size)
        return wrap(model, f"model.{built.head}", example, norm_statistics=statistics)

    def _load(self, model: nn.Module, head: str) -> None:
        assert self.weights is not None
        if self.is_saved:
            for layer in model.modules():  # a stand-in for statistics that are loaded next
                if isinstance(variance := getattr(layer, "running_var", None), Tensor):
                    variance.fill_(2.0)
            return
        if (found := file_hash(self.weights)) != self.sha256:
            raise MetaLensError(
                f"{self.weights} holds other weights than before: its SHA-256 begins with {found[:12]}, not "
                f"with {str(self.sha256)[:12]}; give the file of then, or start over."
            )
        load_weights(model, Path(self.weights), head)


def file_hash(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file of weights.

    Raises:
        MetaLensError: it cannot be read.
    """
    failed = reraise_as(f"The weights {path} cannot be read", "give the path of a file", (OSError,))
    with failed, Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Normalized(nn.Module):
    """Images in [-1, 1], normalized as weights expect them: `((x + 1) / 2 - mean) / std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], in_channels: int) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            of_channels = torch.tensor(values)
            if len(values) != in_channels:  # as of grey images
                of_channels = of_channels.mean().expand(in_channels).clone()
            self.register_buffer(name, of_channels.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2 - self.mean) / self.std
