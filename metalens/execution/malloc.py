"""Control whether glibc returns freed memory to the system."""

import ctypes
import mmap
import platform
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_MAX_KEPT_BYTES = 32 * 2**20  # the largest size to which the library raises its own threshold


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for later ones until the process ends; only with glibc.

    By default, glibc returns large buffers to the system, which clears each page before it is used again, at
    every step: with convolutions that can take a third of the time.
    """
    if _is_glibc():
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_MAX, 0)  # large buffers come from the heap too
        c_library.mallopt(_M_TRIM_THRESHOLD, -1)  # which is never trimmed


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` if memory is short, as kept buffers leave holes."""
    if _is_glibc():
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_MAX, 65536)
        c_library.mallopt(_M_MMAP_THRESHOLD, _MAX_KEPT_BYTES)
        c_library.mallopt(_M_TRIM_THRESHOLD, 2 * _MAX_KEPT_BYTES)
        c_library.malloc_trim(0)


class _MallocInfo(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
        "keepcost",
    )]  # fmt: skip


def retained_bytes() -> int:
    """Return the bytes that the C library keeps for later tensors, 0 if unknown.

    >>> retained_bytes() >= 0
    True
    """
    with suppress(AttributeError, OSError):  # a version before 2.33
        if _is_glibc():
            mallinfo2 = ctypes.CDLL(None).mallinfo2
            mallinfo2.restype = _MallocInfo
            info = mallinfo2()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            unused = pages * mmap.PAGESIZE - info.uordblks - info.hblkhd
            return max(0, min(info.fordblks, unused))  # some of the free bytes may have been returned
    return 0


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
