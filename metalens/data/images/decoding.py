"""Decode image files by Pillow."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from metalens.errors import MetaLensError, extra

with extra("cli"):
    from PIL import Image, ImageOps

_MAX_BYTES = 256 * 1024**2  # of one image file

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it reports damage too

# Formats of Pillow that need other programs.
_FOREIGN = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"})


def format_of(path: str) -> str | None:
    """Return the format of an image by the extension of its file; `None` if Pillow does not read it."""
    name = Image.registered_extensions().get(PurePosixPath(path).suffix.lower())
    return name if name in Image.OPEN and name not in _FOREIGN else None


def decode(size: int, read: Callable[[], bytes], side: int, color: bool) -> np.ndarray:
    """Return an image of `size` bytes, `(channels, side, side)` uint8; for its errors see `reason_of`."""
    if size > _MAX_BYTES:
        raise MetaLensError(f"it would take {size:,} bytes")
    formats = [name for name in Image.OPEN if name not in _FOREIGN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(read()), formats=formats) as image:
            upright = ImageOps.exif_transpose(image)
            small = _flat(upright, color).resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(small)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if color else pixels[np.newaxis])


def _flat(image: Image.Image, color: bool) -> Image.Image:
    """Return an image in color or grey, with white where it is transparent."""
    if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise MetaLensError("its pixels are no whole numbers of 8 or 16 bits")
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image.convert("RGB" if color else "L")


def reason_of(error: Exception) -> str:
    """Return why an image cannot be decoded, for messages."""
    match error:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return "it has more pixels than a photograph; it may be a decompression bomb"
        case MetaLensError():
            return str(error)
        case OSError() if error.strerror:
            return error.strerror
    return type(error).__name__
