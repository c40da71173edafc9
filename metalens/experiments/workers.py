"""Do independent jobs in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

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
from typing import Any, Literal, TypeVar

from metalens.errors import MetaLensError

Workers = int | Literal["ray"]
Job = TypeVar("Job")
Result = TypeVar("Result")

# A process that was started to be copied saves every other one the imports; not all systems can copy.
_PROCESSES = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    _PROCESSES.set_forkserver_preload(
        ["lightning_fabric", "pandas", "matplotlib.figure", "scipy.stats", "sklearn.ensemble"]
    )


def as_completed(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: Workers, threads: int
) -> Iterator[Result]:
    """Yield `function(job)` for every job, in the order in which they end.

    Args:
        function: called in another process; it and the jobs must be picklable.
        jobs: independent of each other.
        workers: number of processes, or `"ray"` for a Ray cluster: the one that `RAY_ADDRESS` names, or one
            that is started on this machine.
        threads: what a job occupies of a cluster's processors.

    Raises:
        MetaLensError: Ray is not installed; or what a job raised.

    >>> sorted(as_completed(abs, [-1, 2], workers=1, threads=1))
    [1, 2]
    """
    if workers == "ray":
        yield from _on_ray(function, jobs, threads)
    else:
        with processes(workers) as submit:
            pending = [submit(function, job) for job in jobs]
            for future in concurrent.futures.as_completed(pending):
                yield future.result()


@contextmanager
def processes(n: int) -> Iterator[Callable[..., Future[Any]]]:
    """Give `submit(function, *arguments)`, whose calls are made in processes of their own, `n` at a time.

    A process that dies takes its own call with it and no other; all end with this one, however it ends, and
    with the block. Functions, arguments and results must be picklable.

    >>> with processes(2) as submit:
    ...     submit(abs, -1).result(), submit(os._exit, 1).exception()
    (1, MetaLensError('Its process died; ...'))
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
                "Its process died; one that memory was too short for does so: try fewer workers or a smaller "
                "chunk."
            ) from None
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return result


def _begin(listening: Connection) -> None:
    """Let this process end when the one that holds the other end of the pipe ends, or closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for that one

    def listen() -> None:
        wait([listening])
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


def _call_noting(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[str]]:
    """Return what a function returns, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments)
    return result, [str(warning.message) for warning in caught]


def _on_ray(function: Callable[[Job], Result], jobs: Iterable[Job], threads: int) -> Iterator[Result]:
    try:
        import ray  # pyright: ignore[reportMissingImports] # an extra
    except ImportError:
        raise MetaLensError("workers=ray needs Ray: pip install 'metalens[ray]'.") from None
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    remote = ray.remote(num_cpus=threads)(_call)
    pending = [remote.remote(function, job) for job in jobs]
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


def _call(function: Callable[[Job], Result], job: Job) -> Result:
    return function(job)
