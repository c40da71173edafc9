"""Call a function on many items in parallel processes of this machine, or on a Ray cluster."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from metalens.errors import MetaLensError, extra
from metalens.execution.machine import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

# A fork server imports once for all processes; not all systems can fork.
_PROCESSES = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
_PRELOAD = ["lightning_fabric", "pandas", "matplotlib.figure", "scipy.stats", "sklearn.ensemble"]
if os.name == "posix":
    _PROCESSES.set_forkserver_preload(_PRELOAD)


def as_completed(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: Workers, threads: int
) -> Iterator[Result]:
    """Yield `function(item)` for every item, as they complete.

    Args:
        function: called in another process; it, the items and the results must be picklable.
        items: independent of each other.
        workers: number of processes, or `"ray"` for a Ray cluster: the one at `RAY_ADDRESS`, or one started
            on this machine.
        threads: processors that a call occupies on a cluster.

    Raises:
        MetaLensError: Ray is not installed; or what a call raised.

    ::

        sorted(as_completed(abs, [-1, 2], workers=2, threads=1))  # [1, 2]
    """
    if workers == "ray":
        yield from _on_ray(function, items, threads)
    else:
        with processes(workers) as submit:
            pending = [submit(function, item) for item in items]
            for future in concurrent.futures.as_completed(pending):
                yield future.result()


@contextmanager
def processes(n: int) -> Iterator[Callable[..., Future[Any]]]:
    """Yield `submit(function, *arguments)`, which calls in new processes, at most `n` at a time.

    A process that dies fails its own call only. All processes end with this one, however it ends, and with
    the block. Functions, arguments and results must be picklable. ::

        with processes(2) as submit:
            submit(abs, -1).result()  # 1
    """
    listening, held = _PROCESSES.Pipe(duplex=False)
    pool = ThreadPoolExecutor(n)
    try:
        yield partial(pool.submit, _in_a_process, listening)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        held.close()
        pool.shutdown()
        listening.close()


def _in_a_process(listening: Connection, function: Callable[..., Any], *arguments: Any) -> Any:
    context: Any = _PROCESSES
    with ProcessPoolExecutor(1, context, initializer=_begin, initargs=(listening,)) as process:
        try:
            result, notes = process.submit(_call_noting, function, *arguments).result()
        except BrokenProcessPool:
            raise MetaLensError(
                "Its process died, perhaps for lack of memory; try fewer workers or a smaller chunk."
            ) from None
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return result


def _begin(listening: Connection) -> None:
    """End this process when the one at the other end of the pipe ends, or closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that one handles Ctrl-C

    def listen() -> None:
        wait([listening])
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


def _call_noting(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    """Return what a function returns, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments)
    return result, [str(warning.message) for warning in caught]


def _on_ray(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    with extra("ray"):
        import ray  # pyright: ignore[reportMissingImports] # an extra
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    remote = ray.remote(num_cpus=threads)(lambda function, item: function(item))
    pending = [remote.remote(function, item) for item in items]
    try:
        while pending:
            (done,), pending = ray.wait(pending)
            try:
                yield ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
