"""The drawings of Omniglot as one array: found or downloaded, decoded once, kept in a cache."""

import hashlib
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from metalens.data.base import Split
from metalens.data.catalog.base import DataSet, fetched
from metalens.errors import MetaLensError, extra
from metalens.io.files import atomic_path, cache_folder

N_CHARACTERS = 1623
N_DRAWERS = 20
SIDE = 28

# Names and MD5 sums of the two files upstream.
ZIPS = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
_PAGE = "https://github.com/brendenlake/omniglot/tree/master/python"
_AGAIN = f"delete the zip file and download it again from {_PAGE}."

Scheme = Literal["vinyals", "finn"]

_FORMAT = 1  # part of the cache's key: raise it when the decoding or the layout of the cache file changes

# Alphabet/character/number_drawer, under any leading folders.
_MEMBER = re.compile(r"(?:.*/)?([^/]+)/character\d+/(\d{4})_(\d{2})\.png")

# Upstream drawings measure 105 by 105 pixels in some 500 bytes: far more is an attack or another file.
_MAX_BYTES, _MAX_SIDE = 1_000_000, 1024

# The published lists of Vinyals amount to these alphabets and this number: Gurmukhi's character 42.
_VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_VINYALS_FIRST_TEST = 1201

_FINN_SEED = 2017  # of one permutation for all, whatever the seed of the tasks
_FINN_TRAIN, _FINN_VAL = 1100, 100


class OmniglotImages(NamedTuple):
    """All drawings of the c characters found, in ascending order of the characters' numbers.

    Attributes:
        pixels: `(c, 20, 28, 28)` uint8, strokes 255 on background 0; axis 1 is the drawer.
        numbers: `(c,)` int64, upstream's number of each character, 1 to 1623.
        alphabets: `(c,)` text, upstream's name of each character's alphabet.
    """

    pixels: np.ndarray
    numbers: np.ndarray
    alphabets: np.ndarray


def load_images(folder: str | os.PathLike[str] | None = None) -> OmniglotImages:
    """Return the drawings, from the first place that has both upstream zip files, alone or in `omniglot`.

    The places are `folder`, or the folder that the environment variable METALENS_DATA names and a download
    into the cache, which also keeps the decoded array. Callers share the arrays and must not change them.

    Raises:
        MetaLensError: the folder lacks the files, they are damaged or laid out differently, or they
            cannot be downloaded.
    """
    found = OMNIGLOT.require(folder) if folder is not None else OMNIGLOT.find() or OMNIGLOT.fetch()
    zips = tuple(found.with_name(name) for name in ZIPS)
    return _load(zips, _digest(zips))


def split_characters(numbers: np.ndarray, alphabets: np.ndarray, split: Split, scheme: Scheme) -> np.ndarray:
    """Return which characters are in a split, `(c,)` bool, by upstream's numbers and names of alphabets.

    >>> split_characters(np.array([466, 683, 1623]), np.array(["Hebrew", "Latin", "ULOG"]), "val", "vinyals")
    array([ True, False, False])
    """
    if scheme == "finn":
        order = np.random.default_rng(_FINN_SEED).permutation(N_CHARACTERS) + 1
        parts = np.split(order, [_FINN_TRAIN, _FINN_TRAIN + _FINN_VAL])
        return np.isin(numbers, parts[get_args(Split).index(split)])
    test = numbers >= _VINYALS_FIRST_TEST
    val = np.isin(alphabets, _VINYALS_VAL)
    return {"train": ~test & ~val, "val": val, "test": test}[split]


class OmniglotDataSet(DataSet):
    """Two zip files, at stable addresses upstream."""

    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        images = load_images(self.require(folder).parent)
        facts: dict[str, Any] = {}
        for split in get_args(Split):
            n = int(split_characters(images.numbers, images.alphabets, split, "vinyals").sum())
            facts[split] = {"classes": n, "images": n * images.pixels.shape[1]}
        return facts

    def fetch(self) -> Path:
        by_hand = (
            f"download {' and '.join(ZIPS)} from {_PAGE} on another machine, put them in a folder, and set "
            "the environment variable METALENS_DATA to that folder"
        )
        addresses = {URL + name: md5 for name, md5 in ZIPS.items()}
        return fetched("Omniglot", addresses, cache_folder() / self.folder, by_hand)

    def _places(self, folder: str | os.PathLike[str] | None) -> Iterator[Path]:
        yield from super()._places(folder)
        if folder is None:
            yield cache_folder() / self.folder / self.files[0]  # where `fetch` keeps it

    def _is_at(self, path: Path) -> bool:
        return all(path.with_name(name).is_file() for name in ZIPS)


OMNIGLOT = OmniglotDataSet(
    name="omniglot",
    description="Handwritten characters of 50 alphabets, 20 drawings of each",
    license="MIT",
    source="https://github.com/brendenlake/omniglot",
    steps=f"put {' and '.join(ZIPS)} of its folder python into a folder omniglot",
    files=tuple(ZIPS)[:1],
    folder="omniglot",
)


def _digest(zips: tuple[Path, ...]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for path in zips:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            reason = f"Cannot read {path} ({error.strerror}); make it readable"
            raise MetaLensError(f"{reason}, or {_AGAIN}") from error
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _load(zips: tuple[Path, ...], key: str) -> OmniglotImages:
    cache = cache_folder() / "omniglot" / f"images-{key}.npz"
    images = _read_cache(cache)
    if images is None:
        images = _decode(zips)
        with suppress(OSError):  # Without a cache, the next process decodes again: slower, not wrong.
            cache.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(cache) as partial, partial.open("wb") as file:
                np.savez(file, **images._asdict())
    return images


def _read_cache(path: Path) -> OmniglotImages | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = OmniglotImages(*(arrays[name] for name in OmniglotImages._fields))
    except Exception:  # Damage shows as one of many types, and the remedy is always to decode again.
        return None
    shapes = tuple(array.shape for array in images)
    n = images.numbers.size
    return images if shapes == ((n, N_DRAWERS, SIDE, SIDE), (n,), (n,)) else None


class _Drawing(NamedTuple):
    number: int
    drawer: int
    alphabet: str
    pixels: np.ndarray
    source: Path


def _decode(zips: tuple[Path, ...]) -> OmniglotImages:
    drawings = sorted((d for path in zips for d in _drawings(path)), key=lambda d: (d.number, d.drawer))
    _check_complete(drawings)
    firsts = drawings[::N_DRAWERS]
    return OmniglotImages(
        np.stack([d.pixels for d in drawings]).reshape(-1, N_DRAWERS, SIDE, SIDE),
        np.array([d.number for d in firsts], dtype=np.int64),
        np.array([d.alphabet for d in firsts]),
    )


def _drawings(path: Path) -> Iterator[_Drawing]:
    place, n = str(path), 0
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if match := _MEMBER.fullmatch(info.filename):
                    place, n = f"{info.filename} in {path}", n + 1
                    alphabet, number, drawer = match.groups()
                    yield _Drawing(int(number), int(drawer), alphabet, _pixels(archive, info), path)
    except MetaLensError:  # Pillow is missing
        raise
    except Exception as error:  # zipfile and Pillow show damage as one of a dozen types.
        raise MetaLensError(
            f"{place} is damaged or not what it claims to be ({type(error).__name__}); {_AGAIN}"
        ) from error
    if n == 0:
        raise MetaLensError(
            f"{path} has no files named like Latin/character01/0683_01.png, so it is not Omniglot; {_AGAIN}"
        )


def _pixels(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with extra("cli"):
        from PIL import Image

    if info.file_size > _MAX_BYTES:
        raise Image.DecompressionBombError
    with Image.open(io.BytesIO(archive.read(info)), formats=["PNG"]) as image:
        if max(image.size) > _MAX_SIDE:
            raise Image.DecompressionBombError
        # Upstream stores 1 bit per pixel, which Pillow would reduce to the nearest pixel, whatever filter
        # is asked for; in grey it antialiases.
        small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small)


def _check_complete(drawings: list[_Drawing]) -> None:
    """Refuse characters with missing or duplicate drawings, and numbers that upstream lacks."""
    sources = {d.number: d.source for d in drawings}
    seen = Counter((d.number, d.drawer) for d in drawings)
    known = [number for number in sources if 1 <= number <= N_CHARACTERS]
    expected = {(number, drawer) for number in known for drawer in range(1, N_DRAWERS + 1)}
    odd = (seen.keys() ^ expected) | {key for key, count in seen.items() if count > 1}
    if odd:
        number, drawer = min(odd)
        raise MetaLensError(
            f"Characters must be numbered 1 to {N_CHARACTERS} and have one drawing by each of {N_DRAWERS} "
            f"drawers, but drawing {number:04}_{drawer:02} in {sources[number]} is missing, unknown or "
            f"there twice; {_AGAIN}"
        )
