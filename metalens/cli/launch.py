"""Start the other processes of a run on this machine, and end them with this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from metalens.errors import MetaLensError

_PATIENCE = 5.0  # seconds for a process to notice that another one has failed
_INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)

Other = tuple[subprocess.Popen[bytes], IO[bytes]]  # and what it says on the way


@contextmanager
def other_processes(devices: int, words: Sequence[str]) -> Iterator[int]:
    """Start the command once more for each further device, unless `torchrun` did, and give this one's rank.

    The processes find each other by the environment, as Lightning Fabric reads it. Those started here are
    silent. If the block succeeds they end by themselves, else by force, as they write nothing.

    Args:
        devices: processes on this machine, this one included.
        words: the arguments of the command.

    Raises:
        MetaLensError: another process failed, or `torchrun` started another number of them.

    >>> with other_processes(1, ["run", "demo"]) as rank:
    ...     rank
    0
    """
    if "LOCAL_RANK" in os.environ:
        started = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
        if started != devices:
            raise MetaLensError(
                f"{started} processes were started on this machine, and devices is {devices}; "
                f"give --machine.devices {started}."
            )
        yield int(os.environ.get("RANK", os.environ["LOCAL_RANK"]))
        return
    others: list[Other] = []
    over = threading.Event()
    with ExitStack() as stack:
        try:
            if devices > 1:
                stack.enter_context(_environment(devices))
                for rank in range(1, devices):
                    others.append(_start(words, rank, stack.enter_context(tempfile.TemporaryFile())))
                threading.Thread(target=_watch, args=(others, over), daemon=True).start()
            yield 0
            for process, _ in others:
                process.wait()
        except (RuntimeError, KeyboardInterrupt) as error:
            patience = _PATIENCE if others and isinstance(error, RuntimeError) else 0.0
            if (reason := _failure(others, patience)) is None:
                raise
            raise MetaLensError(reason) from error
        finally:
            over.set()
            for process, _ in others:
                process.kill()
                process.wait()


@contextmanager
def _environment(n: int) -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "RANK": 0, "LOCAL_RANK": 0, "NODE_RANK": 0,
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(words: Sequence[str], rank: int, said: IO[bytes]) -> Other:
    process = subprocess.Popen(
        [sys.executable, "-m", "metalens", *words],
        env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
    )
    return process, said


def _failure(others: Sequence[Other], patience: float) -> str | None:
    """Return what a process that failed said last; `None` if none failed, or Ctrl-C ended them."""
    until = time.monotonic() + patience
    while True:
        for rank, (process, said) in enumerate(others, start=1):
            if process.poll() and process.returncode not in _INTERRUPTED:
                said.seek(0)
                words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                return f"process {rank} ended with status {process.returncode}; {words or 'it said nothing.'}"
        if time.monotonic() >= until or all(process.returncode is not None for process, _ in others):
            return None
        time.sleep(0.1)


def _watch(others: Sequence[Other], over: threading.Event) -> None:
    """Interrupt this process where it does not notice by itself that another one has failed.

    While it waits for the others to come or to answer, PyTorch may let no interruption through.
    """
    while not over.wait(1.0):
        if any(process.poll() for process, _ in others):
            if not over.wait(_PATIENCE):
                os.kill(os.getpid(), signal.SIGINT)
            if not over.wait(_PATIENCE):
                sys.stderr.write(f"metalens: {_failure(others, 0.0)}\n")
                for process, _ in others:
                    process.kill()
                os._exit(2)
            return
