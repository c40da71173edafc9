"""What the C library does with memory that PyTorch frees."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors for the next ones, on Linux with the GNU C library.

    By default that library gives large buffers back to the system when they are freed. The system clears
    each page before it hands it out again, at every step: with convolutions that can take a third of the
    time. The whole process is concerned, until it ends; elsewhere nothing is done.

    >>> keep_freed_memory()
    """
    if platform.libc_ver()[0] == "glibc":
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_MAX, 0)  # large buffers come from the heap too
        c_library.mallopt(_M_TRIM_THRESHOLD, -1)  # of which nothing is given back


class _MallocInfo(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
        "keepcost",
    )]  # fmt: skip


def freed_memory() -> int:
    """Return the bytes that the C library keeps for the next tensors, 0 where it does not tell.

    >>> freed_memory() >= 0
    True
    """
    with suppress(AttributeError, OSError):  # another library, or one before version 2.33
        if platform.libc_ver()[0] == "glibc":
            mallinfo2 = ctypes.CDLL(None).mallinfo2
            mallinfo2.restype = _MallocInfo
            return mallinfo2().fordblks
    return 0
