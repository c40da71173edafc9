"""Any image classifier of the timm library."""

import importlib
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.state import first_sentence
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
    if n_way < 2:
        raise MetaLensError(f"n_way must be at least 2, got {n_way}.")
    if in_channels < 1 or (image_size is not None and image_size < 1):
        raise MetaLensError(
            "timm_model needs in_channels >= 1 and image_size >= 1 or None, "
            f"got in_channels={in_channels}, image_size={image_size}."
        )
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision made for another torch
        raise MetaLensError(
            f"timm cannot be imported ({error}); pip install 'metalens[vision]', with a torchvision that "
            "fits the installed torch."
        ) from error
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
    if weights is not None:
        _load(model, Path(weights), head)
    usual = "task" if weights is None and not pretrained else "pretrained"
    example = torch.randn(4, in_channels, *size)
    return wrap(model, head, example, norm_statistics=norm_statistics or usual)


def _load(model: nn.Module, path: Path, head: str) -> None:
    """Load weights from a file into a model, but for a head of another size."""
    try:
        is_pickle = path.suffix != ".safetensors"
        state = torch.load(path, weights_only=True, map_location="cpu") if is_pickle else load_file(path)
        own = model.state_dict()
        fitting = {n: t for n, t in state.items() if not n.startswith(f"{head}.") or own[n].shape == t.shape}
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    except (OSError, RuntimeError, SafetensorError, UnpicklingError, AttributeError, KeyError) as error:
        raise MetaLensError(
            f"{path} does not hold weights of {type(model).__name__} ({first_sentence(error)}); give a file "
            "of a state_dict of this model."
        ) from error
    if lost := [*(name for name in missing if not name.startswith(f"{head}.")), *unexpected]:
        raise MetaLensError(
            f"{path} does not hold weights of {type(model).__name__}: {', '.join(lost[:3])} and so on differ "
            "from the model's; give a file of a state_dict of this model."
        )
