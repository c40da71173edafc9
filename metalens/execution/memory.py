"""Peak memory of an outer step, and the largest chunk of tasks that fits."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from metalens.execution.malloc import retained_bytes
from metalens.objective import Objective, outer_loss
from metalens.tasks import Task, n_tasks

# Of what is available. The rest is for workspaces of operations, holes between tensors, and other programs.
SHARE = 0.6

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Where the kernel keeps limits, and the names of the limit and of what is used, in its versions 2 and 1.
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def fitting_chunk(objective: Objective, tasks: Task) -> int | None:
    """Return how many tasks at a time fit into memory: `None` for all, else the largest chunk that does.

    Steps are made and their tensors counted, first of as few tasks as possible. Memory grows at most in
    proportion to the tasks or, with regularizers, which may compute something for every pair, to their
    square; so the first count is mostly enough to know that all fit. Otherwise as many more tasks are taken
    as certainly fit, at most twice as many, until it is known or can be extrapolated. Chunks, too, grow
    from a single task by as much as certainly fits.

    Args:
        objective: what is trained, on its device; its `chunk` changes in here and is put back.
        tasks: a batch as in training.

    Returns:
        At least 1, even where less than that fits.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> fitting_chunk(Objective(MAML(mlp())), Sinusoid().batch(range(4))) is None
    True
    """
    if not objective.regularizers and objective.learner.plan(objective.batching) == "loop":
        return None  # which takes task by task anyway
    total, before = n_tasks(tasks), objective.chunk
    limit = objective.processes.all_reduce_min(SHARE * _own_share(objective))
    few, degree = min(total, objective.min_meta_batch_size), 2 if objective.regularizers else 1
    try:
        objective.chunk = None
        first = step_bytes(objective, _first(few, tasks))
        if total == 1 or _all_fit(objective, tasks, limit, degree, (few, first)):
            return None
        of_a_task = first / few * (total / few) ** (degree - 1)
        chunk, more = 0, 1
        while more > chunk:
            objective.chunk = chunk = more
            peak = step_bytes(objective, tasks)
            more = min(total - 1, chunk + int((limit - peak) / min(of_a_task, peak / chunk)))
        return math.ceil(total / math.ceil(total / chunk))  # of equal size, as far as possible
    except NotImplementedError:  # an operation that cannot be followed: nothing is known
        return None
    finally:
        objective.chunk = before


def _own_share(objective: Objective) -> float:
    """Return the bytes that this process can take; a CPU's processes have its memory in common."""
    device, processes = objective.learner.device, objective.processes
    return available_bytes(device) / (processes.world_size if device.type == "cpu" else 1)


def _all_fit(objective: Objective, tasks: Task, limit: float, degree: int, first: tuple[int, float]) -> bool:
    """Return whether all tasks fit at once, from what the first few need."""
    total, before, (n, peak) = n_tasks(tasks), None, first
    while peak * (total / n) ** degree > limit:
        more = min(total, 2 * n, int(n * (limit / peak) ** (1 / degree)))
        if more <= n:
            return before is not None and _extrapolate(before, (n, peak), total) <= limit
        before, n = (n, peak), more
        peak = step_bytes(objective, _first(n, tasks))
    return True


def _first(n: int, tasks: Task) -> Task:
    return pytree.tree_map(lambda tensor: tensor[:n], tasks)


def _extrapolate(first: tuple[int, float], second: tuple[int, float], n: int) -> float:
    """Return the bytes of n tasks from those of two smaller batches.

    By a line or, where they grow faster than the tasks, by the parabola through them and 0.
    """
    (n1, bytes1), (n2, bytes2) = first, second
    if bytes2 * n1 <= bytes1 * n2:
        return bytes1 + (bytes2 - bytes1) / (n2 - n1) * (n - n1)
    square = (bytes2 / n2 - bytes1 / n1) / (n2 - n1)
    return (bytes1 / n1 - square * n1) * n + square * n**2


def step_bytes(objective: Objective, tasks: Task) -> int:
    """Return the bytes that an outer step needs at its peak, above what is there before.

    Of a learner that follows a schedule, those of the first or the last step, whichever needs more.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> objective = Objective(MAML(mlp()))
    >>> few, many = (step_bytes(objective, Sinusoid().batch(range(n))) for n in (2, 20))
    >>> 5 * few < many < 10 * few
    True
    """

    def step() -> None:
        outer_loss(objective(tasks)).backward()

    learner, peak = objective.learner, 0
    for progress in (0.0, 1.0):
        learner.set_progress(progress)
        objective.zero_grad()
        peak = max(peak, peak_bytes(step))
        objective.zero_grad()
        if learner.schedule_finished:
            break
    learner.set_progress(1.0)
    return peak


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the peak of the bytes of tensors that a function makes and holds at the same time.

    Workspaces inside of single operations are not seen.

    >>> peak_bytes(lambda: torch.ones(1000).add(1).mul(2).sum())
    8000
    """
    with _Count() as count:
        function()
    return count.peak


class _Count(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        for storage in _storages(results):
            if storage.data_ptr() not in given:
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return results

    def _add(self, n: int) -> None:
        self.held += n
        self.peak = max(self.peak, self.held)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def available_bytes(device: torch.device) -> float:
    """Return how many more bytes this process can take, infinity where that is unknown.

    On a CPU that is what the system has, within the limits of containers and other control groups (Linux).

    >>> available_bytes(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu":
        return max(0.0, min([_system(), *_groups()])) + retained_bytes()
    return math.inf


def _system() -> float:
    with suppress(OSError):
        if found := re.search(r"^MemAvailable:\s*(\d+) kB", _MEMINFO.read_text(), re.MULTILINE):
            return 1024 * float(found.group(1))
    return math.inf


def _groups() -> Iterator[float]:
    """Yield what the limit of every control group of this process leaves."""
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            path = line.split(":", 2)[2].lstrip("/")
            for root, limit, used in _GROUPS:
                for folder in {root / part for part in ("", path, *Path(path).parents)}:
                    # A limit that is absent, or the word "max", is none.
                    with suppress(OSError, ValueError):
                        allowed = int((folder / limit).read_text())
                        yield allowed - int((folder / used).read_text()) + _file_cache(folder)


def _file_cache(folder: Path) -> int:
    """Return the bytes of files that the system keeps for a control group and drops where memory is short."""
    found = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0
