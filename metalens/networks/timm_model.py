"""Any image classifier of the timm library."""

import importlib
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from metalens.errors import MALFORMED, MetaLensError, reraise_as
from metalens.networks.base import Network
from metalens.networks.wrap import NormStatistics, wrap


def timm_model(
    name: str,
    n_way: int = 5,
    *,
    pretrained: bool = False,
    weights: str | PathLike[str] | None = None,
    norm_statistics: NormStatistics | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
) -> Network:
    """Build a model of timm with a new head, and `wrap` it.

    Args:
        name: one of `timm.list_models()`, for example `"resnet18"`.
        n_way: classes of a task.
        pretrained: download weights; they expect images normalized as the model's `pretrained_cfg` says.
        weights: file of pretrained weights of this model, `.safetensors` or of PyTorch; its head is left out
            if it has another number of classes.
        norm_statistics: see `wrap`; by default `"pretrained"` with pretrained weights, else `"task"`.
        in_channels: channels of the images.
        image_size: height and width of the images; by default those of the model. For a model without a fixed
            size it matters only to the check in `wrap`, which is faster on small images.

    Returns:
        A `Network` with `(n, in_channels, image_size, image_size) -> (n, n_way)`; its backbone is one stage.
        See `wrap` for what it exchanges and measures: seconds for a small model, minutes for a large one.

    Raises:
        MetaLensError: timm is missing, has no such model, or the model cannot be built or wrapped so.

    >>> timm_model("resnet18", 5, image_size=64).n_features  # doctest: +SKIP
    512

    Source: R. Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.
    Deviation: without pretrained weights, batch normalization uses the statistics of the current set.
    """
    built = built_model(name, n_way, in_channels, image_size, pretrained=pretrained)
    if weights is not None:
        load_weights(built.model, Path(weights), built.head)
    usual = "task" if weights is None and not pretrained else "pretrained"
    example = torch.randn(4, in_channels, *built.size)
    return wrap(built.model, built.head, example, norm_statistics=norm_statistics or usual)


class BuiltModel(NamedTuple):
    """A model of timm.

    Attributes:
        model: with a new head.
        head: its name.
        size: height and width of its images.
        mean: of every channel of images in [0, 1], by which weights expect them normalized.
        std: the same of the deviation.
    """

    model: nn.Module
    head: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def built_model(
    name: str, n_way: int, in_channels: int, image_size: int | None, *, pretrained: bool = False
) -> BuiltModel:
    """Build a model of timm, with new weights or those of its hub; see `timm_model`."""
    if n_way < 2:
        raise MetaLensError(f"n_way must be at least 2, got {n_way}.")
    if in_channels < 1 or (image_size is not None and image_size < 1):
        raise MetaLensError(
            "timm_model needs in_channels >= 1 and image_size >= 1 or None, "
            f"got in_channels={in_channels}, image_size={image_size}."
        )
    timm = _timm()
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models()) or ["none; see timm.list_models()"]
        raise MetaLensError(f"timm has no model {name!r}; near names: {', '.join(near)}.")
    try:
        cfg = timm.get_pretrained_cfg(name)
        size = cfg.input_size[1:] if image_size is None else (image_size, image_size)
        model = timm.create_model(
            name,
            pretrained=pretrained,
            num_classes=n_way,
            in_chans=in_channels,
            img_size=size if cfg.fixed_input_size else None,  # timm hands on what is not None
        )
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
        reason = str(error).rstrip(".")
        raise MetaLensError(f"timm cannot build {name!r} with these settings: {reason}.") from error
    for layer in model.modules():
        if type(layer) is timm.layers.LayerNorm:  # computes what PyTorch's does, which `wrap` makes safe
            layer.__class__ = nn.LayerNorm
    classifier = model.get_classifier()
    head = next((path for path, layer in model.named_modules() if layer is classifier), None)
    if head is None:
        raise MetaLensError(f"timm's {name!r} has no single layer as its head; choose another model.")
    return BuiltModel(model, head, (size[0], size[1]), cfg.mean, cfg.std)


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision made for another torch
        raise MetaLensError(
            f"timm cannot be imported ({error}); pip install 'metalens[vision]', with a torchvision that "
            "fits the installed torch."
        ) from error


def load_weights(model: nn.Module, path: Path, head: str) -> None:
    """Load weights from a file into a model, but for a head of another size."""
    what, remedy = f"{path} does not hold weights of {type(model).__name__}", "give a file of its state_dict"
    damage = (OSError, SafetensorError, UnpicklingError, *MALFORMED)
    with reraise_as(what, remedy, damage):
        is_pickle = path.suffix != ".safetensors"
        state = torch.load(path, weights_only=True, map_location="cpu") if is_pickle else load_file(path)
        own = model.state_dict()
        fitting = {n: t for n, t in state.items() if not n.startswith(f"{head}.") or own[n].shape == t.shape}
        missing, unexpected = model.load_state_dict(fitting, strict=False)
        if lost := [*(name for name in missing if not name.startswith(f"{head}.")), *unexpected]:
            raise ValueError(f"{', '.join(lost[:3])} and so on differ")
