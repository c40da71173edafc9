"""Any image classifier of the timm library."""

import importlib
from difflib import get_close_matches

import torch
from torch import nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.wrap import wrap


def timm_model(
    name: str,
    n_way: int = 5,
    *,
    pretrained: bool = False,
    in_channels: int = 3,
    image_size: int | None = None,
) -> Network:
    """Build a model of timm with a new head, and `wrap` it.

    Args:
        name: one of `timm.list_models()`, for example `"resnet18"`.
        n_way: classes of a task.
        pretrained: load weights; they expect images normalized as the model's `pretrained_cfg` says.
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
    Deviation: batch normalization uses the statistics of the current set, also with pretrained weights.
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
    return wrap(model, head, torch.randn(4, in_channels, *size))
