"""Do independent jobs in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from joblib import Parallel, delayed

from metalens.errors import MetaLensError

Workers = int | Literal["ray"]
Job = TypeVar("Job")
Result = TypeVar("Result")


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
        parallel = Parallel(n_jobs=workers, return_as="generator_unordered")
        results: Any = parallel(delayed(function)(job) for job in jobs)
        yield from results


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
