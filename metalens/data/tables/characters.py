"""The characters of a text file: its encoding, and lines that are not in it."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable
from typing import IO

from metalens.errors import MetaLensError

Opener = Callable[[], IO[bytes]]

_UTF_8 = "utf-8-sig"
_MARKS = {b"\xef\xbb\xbf": _UTF_8, b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # at the start of a file
_BLOCK = 2**20  # characters
_NO_TEXT = "\x00\x1b\udc80-\udcff"  # of UTF-16 or ISO 2022 read as UTF-8, and bytes that were not decoded
_BEYOND_ASCII = "\x80-\U0010ffff"
_C1 = "\x80-\x9f"  # what the curly quotes of cp1252 are in latin-1
_GIVE = "give its encoding, such as encoding='cp1252' (--encoding cp1252)"


def check_encoding(encoding: str | None) -> None:
    """Raise a `MetaLensError` if Python knows no such encoding of text.

    >>> check_encoding("shift-jis")
    >>> check_encoding("ansi-german")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: encoding must be one of Python's, such as 'cp1252', got 'ansi-german'.
    """
    try:
        "".encode(encoding or _UTF_8)
    except (LookupError, UnicodeError, ValueError, TypeError) as error:
        raise MetaLensError(
            f"encoding must be one of Python's, such as 'cp1252', got {encoding!r}."
        ) from error


def encoding_of(opened: Opener, given: str | None) -> str:
    r"""Return the encoding of a text file, after a look at all of its characters.

    It is that of the byte-order mark, if there is one, or else the given one, or else UTF-8.

    Args:
        opened: opens the file.
        given: by the user, if any.

    Raises:
        MetaLensError: a line is not in this encoding, or the file is in UTF-8 and another is given.

    >>> encoding_of(lambda: io.BytesIO("stadt\nKöln\n".encode("cp1252")), "cp1252")
    'cp1252'
    >>> encoding_of(lambda: io.BytesIO("stadt\nKöln\n".encode("cp1252")), None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Line 2 is not in UTF-8 (byte 0xf6); give its encoding, such as ...
    """
    check_encoding(given)
    if given is not None and codecs.lookup(given).name in ("utf-8", _UTF_8):
        given = None
    with opened() as file:
        start = file.read(3)
    marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)
    encoding = marked or given or _UTF_8
    is_given = marked is None and given is not None
    named = "UTF-8" if encoding == _UTF_8 else encoding
    remedy = f"correct encoding={given!r}" if is_given else _GIVE
    try:
        found = _first(opened, encoding, _NO_TEXT + _C1 * is_given)
    except UnicodeError as error:
        raise MetaLensError(f"Its characters are not in {named} ({error}); {remedy}.") from error
    if found:
        line, what = found
        raise MetaLensError(f"Line {line} is not in {named} ({what}); {remedy}, or save the file in UTF-8.")
    if is_given and _first(opened, encoding, _BEYOND_ASCII) and not _first(opened, _UTF_8, _NO_TEXT):
        raise MetaLensError(
            f"Its bytes are in UTF-8, and hardly ever those of a text in {given}; leave out encoding, or "
            "save the file in UTF-8 with a byte-order mark."
        )
    return encoding


def _first(opened: Opener, encoding: str, characters: str) -> tuple[int, str] | None:
    """Return the line of the first of these characters in a file, and what it is."""
    wanted, line = re.compile(f"[{characters}]"), 1
    with opened() as file, io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="") as text:
        while block := text.read(_BLOCK):
            if match := wanted.search(block):
                code = ord(match[0])
                what = f"byte 0x{code - 0xDC00:02x}" if code >= 0xDC80 else f"control character 0x{code:02x}"
                return line + block.count("\n", 0, match.start()), what
            line += block.count("\n")
    return None
