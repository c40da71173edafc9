"""Arrays from an `.npz` file: checked, without pickles, and mapped instead of read where that is possible."""

import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metalens.errors import MetaLensError

MAX_UNPACKED = 8 * 2**30  # bytes of a compressed array; what is larger is mapped, or an attack

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCAL_HEADER = 30  # bytes of a member's header in the zip file, before its name


def read_npz(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return arrays of an `.npz` file by name, read-only; all if `names` is `None`.

    Arrays that `numpy.savez` wrote are mapped into memory; those of `numpy.savez_compressed` are unpacked.

    Raises:
        MetaLensError: the file is missing or damaged, lacks an array, or one has Python objects or is huge.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "data.npz"
    >>> np.savez(path, x=np.arange(3))
    >>> read_npz(path, ["x"])["x"].sum()
    np.int64(3)
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = list(members) if names is None else names
            if missing := [name for name in names if name not in members]:
                known = ", ".join(members) or "none"
                raise MetaLensError(f"{path} has no array {', '.join(missing)}; it has {known}.")
            return {name: _array(path, archive, members[name], name) for name in names}
    except MetaLensError:
        raise
    except FileNotFoundError as error:
        raise MetaLensError(f"There is no file {path}; give the path of an .npz file.") from error
    except Exception as error:  # damage shows as one of a dozen types
        raise MetaLensError(
            f"{path} is damaged or no .npz file ({type(error).__name__}: {error}); write it again by "
            "numpy.savez."
        ) from error


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(info) as member:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
        if dtype.hasobject:
            raise MetaLensError(
                f"Array {name} of {path} holds Python objects, which could run code when read; save numbers, "
                "or text by .astype(str)."
            )
        start, order = member.tell(), "F" if by_columns else "C"
        if info.file_size - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"array {name} has another size than its header says")
        if info.compress_type == zipfile.ZIP_STORED and math.prod(shape):
            with path.open("rb") as file:
                file.seek(info.header_offset + _LOCAL_HEADER - 4)
                lengths = struct.unpack("<HH", file.read(4))  # of the name, and of further fields
            offset = info.header_offset + _LOCAL_HEADER + sum(lengths) + start
            return np.memmap(path, dtype, "r", offset, shape, order)
        if info.file_size > MAX_UNPACKED:
            raise MetaLensError(
                f"Array {name} of {path} unpacks to {info.file_size / 2**30:.0f} GiB, more than "
                f"{MAX_UNPACKED / 2**30:.0f}; save it by numpy.savez, uncompressed, to read it on demand."
            )
        content = member.read(max(1, info.file_size - start))  # a member may unpack to more than it says
        return np.frombuffer(content, dtype).reshape(shape, order=order)
