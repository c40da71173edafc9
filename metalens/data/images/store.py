"""Images of a folder or a zip file as one array: decoded once, kept in a cache, mapped from there."""

import hashlib
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np

from metalens.errors import MetaLensError
from metalens.io.files import atomic_path, cache_folder

WHITE = 65535  # of images with 16 bits
_FORMAT = 2  # part of the cache's key: raise it when the decoding or the layout of the cache files changes

_N_NAMED = 3  # names in a message
# Files that go with images and are none: lists, labels, descriptions.
_COMPANION = re.compile(
    r"\.(csv|db|html|ini|jsonl?|log|md|pdf|py|rst|toml|tsv|txt|xml|ya?ml)$", re.IGNORECASE
)


class SourceFile(NamedTuple):
    """A file of a folder or a zip file."""

    path: str  # inside the source, with forward slashes
    size: int  # in bytes
    stamp: str  # of this content at this place, and of no other; see `stamp_of`


class Encoding(NamedTuple):
    """What images become; see `load_images`."""

    side: int
    color: bool
    white: float | None


class ImageStore(NamedTuple):
    """Decoded images."""

    pixels: np.ndarray  # (n, channels, side, side) uint8, mapped from the cache if there is one
    digests: np.ndarray  # (n,) uint64, equal for equal images


def list_files(source: Path) -> list[SourceFile]:
    """Return all files of a folder or a zip file, sorted by path; hidden ones are left out.

    Raises:
        MetaLensError: the folder or zip file is missing, or the zip names files outside itself.
    """
    found = _files_of_folder(source) if source.is_dir() else _files_of_zip(source)
    return sorted(
        file for file in found if not any(part.startswith((".", "__MACOSX")) for part in file.path.split("/"))
    )


def list_images(source: Path) -> list[SourceFile]:
    """Return the files of a folder or a zip file that Pillow reads by their extension, sorted by path.

    A warning counts and names the others, other than hidden ones, texts and tables.

    Raises:
        MetaLensError: see `list_files`.
    """
    from metalens.data.images.decoding import format_of  # needs Pillow

    files = list_files(source)
    images = [file for file in files if format_of(file.path) is not None]
    others = [PurePosixPath(file.path) for file in files if format_of(file.path) is None]
    others = [path for path in others if not _COMPANION.search(path.name)]
    if others:
        kinds = Counter(path.suffix.lower() or "without extension" for path in others)
        counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5))
        filled = {PurePosixPath(image.path).parent for image in images}
        empty = sorted({path.parent.name for path in others if path.parent not in filled})
        nothing = f", and nothing else is in {some(empty)}" if empty and images else ""
        warnings.warn(
            f"{len(others)} of the {len(files)} files in {source.name} are left out, as their formats are "
            f"not read ({counted}; first: {others[0]}){nothing}; save them as PNG or JPEG.",
            stacklevel=3,
        )
    return images


def some(names: Sequence[str]) -> str:
    """Return the first few of many names.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more


def stamp_of(path: Path) -> SourceFile:
    """Return a file by its name, with a stamp.

    Size and modification time do not tell files apart: unpacking and copying set the time, and pictures of
    one format often have one size. The place, and the time of the last change of any kind, do.
    """
    facts = path.stat()
    stamp = f"{os.path.realpath(path)} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"
    return SourceFile(path.name, facts.st_size, stamp)


@contextmanager
def reading(source: Path) -> Iterator[Callable[[str], bytes]]:
    """Give a function that reads a file of a folder or a zip file by its path inside."""
    if source.is_dir():
        yield lambda path: (source / path).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(source, error) from error
    with archive:
        members = {_path_of(info.filename): info for info in archive.infolist()}

        def read(path: str) -> bytes:
            with archive.open(members[path]) as member:  # which may unpack to more than it says
                return member.read(max(1, members[path].file_size))

        yield read


def load_images(
    source: Path,
    files: Sequence[SourceFile],
    *,
    side: int,
    color: bool,
    white: float | None = None,
    check_depth: bool = True,
) -> ImageStore:
    """Return the image files of a folder or a zip file, in the order of the files, `side` by `side` pixels.

    They are decoded once into the folder that METALENS_CACHE names, or the user's cache folder of the system;
    if it cannot be written, the images stay in memory. Callers must not change them.

    Args:
        source: the folder or zip file.
        files: of it.
        side: height and width in pixels.
        color: whether images have three channels, or one of grey.
        white: the value of white in images of more than 8 bits: 65535, 4095 for 12 bits, 1 for fractions.
            `None`: 65535, and fractions are refused.
        check_depth: without `white`, refuse images of 16 bits that look as if they had 12.

    Raises:
        MetaLensError: images are damaged, dangerously large, or of unknown depth.
    """
    digest = hashlib.sha256(repr((_FORMAT, side, color, white)).encode())
    for file in files:
        digest.update(repr(tuple(file)).encode())
    encoding = Encoding(side, color, white)
    return _load(source, tuple(files), encoding, digest.hexdigest()[:32], check_depth)


@lru_cache(maxsize=8)
def _load(
    source: Path, files: tuple[SourceFile, ...], encoding: Encoding, key: str, check_depth: bool
) -> ImageStore:
    shape = (len(files), 3 if encoding.color else 1, encoding.side, encoding.side)
    cache = cache_folder() / "images" / f"{source.stem}-{encoding.side}-{key}.npy"
    digests = cache.with_suffix(".digests.npy")
    if (store := _read_cache(cache, digests, shape)) is not None:
        return store
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache) as partial, partial.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            found = _decode(
                source, files, encoding, check_depth, lambda _, pixels: file.write(pixels.tobytes())
            )
        with atomic_path(digests) as partial, partial.open("wb") as file:
            np.save(file, found)
    except OSError:  # of the cache: those of the source are MetaLensErrors
        pixels = np.empty(shape, np.uint8)
        found = _decode(source, files, encoding, check_depth, pixels.__setitem__)
        return ImageStore(pixels, found)
    store = _read_cache(cache, digests, shape)
    if store is None:
        raise MetaLensError(f"{cache} was changed while it was written; delete it and try again.")
    return store


def _read_cache(cache: Path, digests: Path, shape: tuple[int, ...]) -> ImageStore | None:
    try:
        store = ImageStore(np.load(cache, mmap_mode="r", allow_pickle=False), np.load(digests))
    except Exception:  # damage shows as one of many types, and the remedy is always to decode again
        return None
    fits = store.pixels.shape == shape and store.digests.shape == shape[:1]
    return store if fits and store.pixels.dtype == np.uint8 else None


def _decode(
    source: Path,
    files: Sequence[SourceFile],
    encoding: Encoding,
    check_depth: bool,
    keep: Callable[[int, np.ndarray], object],
) -> np.ndarray:
    """Decode files one by one, pass each to `keep`, and return their digests."""
    from metalens.data.images.decoding import Depths, decode, reason_of  # needs Pillow

    digests = np.empty(len(files), np.uint64)
    broken: list[tuple[str, str]] = []
    depths = Depths(encoding.white)
    with reading(source) as read:
        for number, file in enumerate(files):
            try:
                pixels = decode(file.size, lambda path=file.path: read(path), encoding, depths)
            except Exception as error:  # Pillow and zipfile show damage as one of a dozen types
                broken.append((file.path, reason_of(error)))
                continue
            if not broken:
                keep(number, pixels)
                digests[number] = int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())
    if broken:
        path, reason = broken[0]
        others = f", and so cannot {len(broken) - 1} others" if len(broken) > 1 else ""
        raise MetaLensError(
            f"{path} in {source} cannot be read as an image ({reason}){others}; replace or delete "
            f"{'it' if len(broken) == 1 else 'them'}."
        )
    if check_depth:
        depths.check(source)
    return digests


def _files_of_folder(folder: Path) -> Iterator[SourceFile]:
    seen: dict[str, str] = {}  # paths of folders by what they are: links may lead in circles
    try:
        for place, names, files in os.walk(folder, onerror=_refuse, followlinks=True):
            if (other := seen.setdefault(os.path.realpath(place), place)) != place:
                link, other = sorted((place, other), key=os.path.islink, reverse=True)
                raise MetaLensError(f"{link} is a link to {other}, also in {folder}; delete the link.")
            names.sort()
            inside = Path(place).relative_to(folder)
            for name in files:
                path = Path(place) / name
                if path.is_file():
                    yield stamp_of(path)._replace(path=(inside / name).as_posix())
    except OSError as error:
        raise _unreadable(folder, error) from error


def _refuse(error: OSError) -> None:
    raise error  # `os.walk` would skip unreadable folders


def _files_of_zip(source: Path) -> Iterator[SourceFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _unreadable(source, error) from error
    for member in members:
        path = PureWindowsPath(member.filename)  # the stricter of the two kinds
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            raise MetaLensError(
                f"{source} names a file outside of its own folder ({member.filename}); get it from elsewhere."
            )
        if member.flag_bits & 1:
            raise MetaLensError(f"{source} is encrypted; unpack it, and give the folder.")
        if not member.filename.endswith(("/", "\\")):  # it may have no name, which `is_dir` does not take
            stamp = f"{member.CRC} {member.date_time}"  # the checksums of PNG files alone are few
            yield SourceFile(_path_of(member.filename), member.file_size, stamp)


def _path_of(name: str) -> str:
    """Return the path of a zip's member; older programs of Windows write backslashes between folders."""
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _unreadable(source: Path, error: Exception) -> MetaLensError:
    if not source.exists():
        return MetaLensError(f"There is no folder or zip file {source}; give the path of one.")
    reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
    return MetaLensError(f"{source} cannot be read as a folder or a zip file ({reason}); get it again.")
