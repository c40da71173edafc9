"""Decode image files by Pillow."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from metalens.data.images.store import WHITE, Encoding
from metalens.errors import MetaLensError, extra

with extra("cli"):
    from PIL import Image, ImageOps

_WHITE_OF_12_BITS = 4095
_MAX_BYTES = 256 * 1024**2  # of one image file

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it reports damage too

# Formats of Pillow that need other programs.
_FOREIGN = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"})


def format_of(path: str) -> str | None:
    """Return the format of an image by the extension of its file; `None` if Pillow does not read it."""
    name = Image.registered_extensions().get(PurePosixPath(path).suffix.lower())
    return name if name in Image.OPEN and name not in _FOREIGN else None


class Depths:
    """The value of white of images with more than 8 bits, and the largest value that was met."""

    def __init__(self, white: float | None) -> None:
        self.white, self.largest, self.n = white, 0.0, 0

    def to_bytes(self, values: np.ndarray) -> np.ndarray:
        """Return grey values as uint8."""
        is_whole = values.dtype.kind in "iu"
        if self.white is None and not is_whole:
            raise MetaLensError("its pixels are fractions; give the value of white, such as white=1.0")
        white = WHITE if self.white is None else self.white
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > white:
            raise MetaLensError(
                f"its pixels are {values.min():g} to {values.max():g} and must be 0 to {white:g}; give the "
                "value of white by white=..."
            )
        self.largest, self.n = max(self.largest, float(values.max())), self.n + 1
        return (values * (255 / white)).round().astype(np.uint8)

    def check(self, source: Path) -> None:
        """Raise `MetaLensError` if white is not given, and no value needs more than 12 bits."""
        if self.white is None and 0 < self.largest <= _WHITE_OF_12_BITS:
            raise MetaLensError(
                f"The {self.n} images of 16 bits in {source} have no value above {self.largest:g}, as if "
                "they had 12, and would be nearly black; give white=4095, or white=65535 if they are."
            )


def decode(size: int, read: Callable[[], bytes], encoding: Encoding, depths: Depths) -> np.ndarray:
    """Return an image of `size` bytes, `(channels, side, side)` uint8; for its errors see `reason_of`."""
    side, color = encoding.side, encoding.color
    if size > _MAX_BYTES:
        raise MetaLensError(f"it would take {size:,} bytes")
    formats = [name for name in Image.OPEN if name not in _FOREIGN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(read()), formats=formats) as image:
            upright = ImageOps.exif_transpose(image)
            small = _flat(upright, color, depths).resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(small)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if color else pixels[np.newaxis])


def _flat(image: Image.Image, color: bool, depths: Depths) -> Image.Image:
    """Return an image in color or grey, with white where it is transparent."""
    if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255
        image = Image.fromarray(depths.to_bytes(np.asarray(image)))
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
