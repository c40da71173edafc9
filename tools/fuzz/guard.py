"""What a reader may not do, and how one is seen to have done it."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn
from unittest.mock import patch

from metalens import cli

PATIENCE = 20.0  # seconds of the processor for one input
MEMORY = 2**30  # bytes for one input, beyond what the process has already
LONGEST = 2000  # characters of a sentence

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ON_PATHS = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate",
             "os.chmod", "os.chown", "os.utime", "os.setxattr")  # fmt: skip
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
          "pickle.find_class", "socket.connect", "socket.bind")  # fmt: skip


class Refused(BaseException):
    """A reader did what it may not; no `except Exception` keeps it."""


class Finding(NamedTuple):
    """Something wrong.

    Attributes:
        what: the type of the error, or a few words.
        where: the last line of MetaLens that was executed.
        said: the beginning of the message.
    """

    what: str
    where: str
    said: str


class _Guard:
    """Ends whatever writes outside of some folders, starts a process, asks a network or loads a pickle."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None  # nothing is watched
        self.installed = False

    def __call__(self, event: str, words: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in _NEVER:
            raise Refused(f"{event} {words[0]!r:.100}")
        if event == "open" and isinstance(words[2], int) and words[2] & _WRITES:
            self._check(event, words[0])
        elif event in _ON_PATHS:
            folder = next((word for word in words[1:] if isinstance(word, int) and word > 2), None)
            for path in words[:2]:
                self._check(event, path, None if event == "os.chmod" else folder)

    def _check(self, event: str, path: Any, folder: int | None = None) -> None:
        assert self.allowed is not None
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.fsdecode(path)
        if folder is not None and os.path.exists(f"/proc/self/fd/{folder}"):
            place = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), place)
        place = os.path.realpath(place)
        if place != os.devnull and not any(
            place == own or place.startswith(own + os.sep) for own in self.allowed
        ):
            raise Refused(f"{event} {place}")


GUARD = _Guard()


@contextmanager
def watched(folders: Sequence[Path]) -> Iterator[None]:
    """Restrict a block to writing into some folders, and to `PATIENCE`.

    Raises:
        Refused: it did something else.
    """
    if not GUARD.installed:
        sys.addaudithook(GUARD)  # for good
        GUARD.installed = True

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise Refused(f"longer than {PATIENCE:.0f} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)  # of the process alone: the machine may be busy
    GUARD.allowed = tuple(os.path.realpath(folder) for folder in folders)
    try:
        yield
    finally:
        GUARD.allowed = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory() -> None:
    """Limit the memory of the process to `MEMORY` more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def outcome(
    read: Callable[[], object], folders: Sequence[Path], *, may_be_large: bool = False
) -> Finding | None:
    """Do something as a command of the command line, and return what is wrong with how it ends.

    Args:
        read: the command; it may end well, or in one sentence.
        folders: where it may write.
        may_be_large: whether it may ask for more memory than there is.
    """
    said = io.StringIO()
    ended = signal.getsignal(signal.SIGTERM)  # the command line has its own way to be ended, and to warn
    try:
        with (
            patch.object(cli, "_dispatch", lambda *_: read()),
            patch("warnings.showwarning"),
            redirect_stdout(io.StringIO()),
            redirect_stderr(said),
            watched(folders),
        ):
            cli.main(["fuzz"])
    except SystemExit:
        return _wrong_sentence(said.getvalue(), may_be_large)
    except (Exception, Refused) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/metalens/" in f.filename]
        where = f"{frames[-1].filename.rpartition('/metalens/')[2]}:{frames[-1].lineno}" if frames else "?"
        return Finding(type(error).__name__, where, " ".join(str(error).split())[:150])
    finally:
        signal.signal(signal.SIGTERM, ended)
    return None


def _wrong_sentence(said: str, may_be_large: bool) -> Finding | None:
    *notes, last = said.splitlines() or [""]
    text = last.removeprefix("metalens: ")
    if text == last or not all(note.startswith("metalens: note: ") for note in notes):
        return Finding("several lines", "?", repr(said)[:300])
    if len(text) > LONGEST:
        return Finding("long sentence", "?", text[:100])
    if not text.isprintable():
        return Finding("unprintable sentence", "?", repr(text)[:100])
    if "do not fit into memory" in text and not may_be_large:
        return Finding("memory", "?", text)
    return None


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Replace the content of a folder by these files."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
