"""Peak memory of an outer step, and the largest chunk of tasks that fits."""

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

# Of the available memory. The rest is for workspaces of operations, holes between tensors, other programs.
SHARE = 0.6

_MEMINFO, _OWN_GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup")
# Folder of control groups, and names of the limit and the usage, in versions 2 and 1.
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def fitting_chunk(objective: Objective, tasks: Task) -> int | None:
    """Return how many tasks at a time fit into memory: `None` for all, else the largest chunk, at least 1.

    The tensors of trial steps are counted, first with as few tasks as possible. Memory grows at most in
    proportion to the tasks or, with regularizers, which may compute something for every pair, to their
    square; so the first count is mostly enough to know that all fit. Otherwise as many more tasks are taken
    as certainly fit, at most twice as many, until it is known or can be extrapolated. Chunks also grow from
    a single task by as much as certainly fits.

    Args:
        objective: what is trained, on its device; its `chunk` is restored.
        tasks: a batch as in training.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> fitting_chunk(Objective(MAML(mlp())), Sinusoid().batch(range(4))) is None
    True
    """
    if not objective.regularizers and objective.learner.plan(objective.batching) == "loop":
        return None  # it computes task by task anyway
    total, before, limit = n_tasks(tasks), objective.chunk, usable_bytes(objective)
    few, degree = min(total, objective.min_meta_batch_size), 2 if objective.regularizers else 1

    def count(n: int) -> float:
        return step_bytes(objective, _first(n, tasks))

    try:
        objective.chunk = None
        first = count(few)
        if total == 1 or _all_fit(count, total, limit, degree, (few, first)):
            return None
        of_a_task = first / few * (total / few) ** (degree - 1)
        chunk, more = 0, 1
        while more > chunk:
            objective.chunk = chunk = more
            peak = step_bytes(objective, tasks)
            more = min(total - 1, chunk + int((limit - peak) / min(of_a_task, peak / chunk)))
        return math.ceil(total / math.ceil(total / chunk))  # of equal size, if possible
    except NotImplementedError:  # an operation that cannot be followed
        return None
    finally:
        objective.chunk = before


def usable_bytes(objective: Objective) -> float:
    """Return how many bytes a step of an objective may take in each process."""
    device = objective.learner.device
    n_sharing = objective.processes.world_size if device.type == "cpu" else 1
    return objective.processes.all_reduce_min(SHARE * available_bytes(device) / n_sharing)


def needs_mixed_mode(objective: Objective, tasks: Task) -> bool:
    """Return whether a step in reverse mode does not fit into memory, and one in mixed mode takes less.

    Only outer steps of two and three inner steps are counted: in both modes, every further one takes as much
    as the third. The objective's batching and chunk are as in training.

    Args:
        objective: what is trained, on its device, with a learner of two or more gradient steps.
        tasks: a batch as in training.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> needs_mixed_mode(Objective(MAML(mlp(), inner_steps=5)), Sinusoid().batch(range(4)))
    False
    """
    learner: Any = objective.learner
    n_steps, chunk, limit = learner.inner_steps, objective.chunk, usable_bytes(objective)
    one_by_one = not objective.regularizers and learner.plan(objective.batching) == "loop"
    total = 1 if one_by_one else min(n_tasks(tasks), chunk or n_tasks(tasks))
    few, degree = min(total, objective.min_meta_batch_size), 2 if objective.regularizers else 1

    def count(n: int) -> float:
        counted = []
        for learner.inner_steps in range(2, min(n_steps, 3) + 1):
            counted.append(step_bytes(objective, _first(n, tasks)))
        return counted[0] + (n_steps - 2) * (counted[-1] - counted[0])

    try:
        objective.chunk, learner.differentiation = None, "reverse"
        in_reverse_mode = count(few)
        if _all_fit(count, total, limit, degree, (few, in_reverse_mode)):
            return False
        learner.differentiation = "mixed"
        return count(few) < in_reverse_mode
    except NotImplementedError:  # an operation that cannot be followed
        return False
    finally:
        learner.inner_steps, objective.chunk, learner.differentiation = n_steps, chunk, "reverse"


def _all_fit(
    count: Callable[[int], float], total: int, limit: float, degree: int, first: tuple[int, float]
) -> bool:
    """Return whether all tasks fit at once, from the peak of the first few and a count of others."""
    before, (n, peak) = None, first
    while peak * (total / n) ** degree > limit:
        more = min(total, 2 * n, int(n * (limit / peak) ** (1 / degree)))
        if more <= n:
            return before is not None and _extrapolate(before, (n, peak), total) <= limit
        before, n = (n, peak), more
        peak = count(n)
    return True


def _first(n: int, tasks: Task) -> Task:
    return pytree.tree_map(lambda tensor: tensor[:n], tasks)


def _extrapolate(first: tuple[int, float], second: tuple[int, float], n: int) -> float:
    """Return the bytes of n tasks: by a line or, if they grow faster, by the parabola through both and 0."""
    (n1, bytes1), (n2, bytes2) = first, second
    if bytes2 * n1 <= bytes1 * n2:
        return bytes1 + (bytes2 - bytes1) / (n2 - n1) * (n - n1)
    square = (bytes2 / n2 - bytes1 / n1) / (n2 - n1)
    return (bytes1 / n1 - square * n1) * n + square * n**2


def step_bytes(objective: Objective, tasks: Task) -> int:
    """Return the peak memory of an outer step; with a schedule, that of the first or last step.

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
    """Return the peak bytes of tensors created by a function, without workspaces of single operations.

    >>> peak_bytes(lambda: torch.ones(1000).add(1).mul(2).sum())
    8000
    """
    with _Count() as count:
        function()
    return count.peak


class _Count(TorchDispatchMode):
    """Counts the bytes of the storages that operations create and that are still held."""

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
    """Return the storages of tensors; a derivative that is zero by itself has none to read."""
    tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if not tensor._is_zerotensor()]


def available_bytes(device: torch.device) -> float:
    """Return how many more bytes this process can allocate, infinity if unknown.

    On a CPU, the memory of the system within the limits of containers and other control groups (Linux).

    >>> available_bytes(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu":
        return max(0.0, min(_cpu_limits(), default=math.inf)) + retained_bytes()
    return math.inf


def _cpu_limits() -> Iterator[float]:
    """Yield the free memory of the system and of every control group of this process."""
    with suppress(OSError):
        if found := re.search(r"^MemAvailable:\s*(\d+) kB", _MEMINFO.read_text(), re.MULTILINE):
            yield 1024 * float(found.group(1))
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            path = line.split(":", 2)[2].lstrip("/")
            for root, limit, used in _GROUPS:
                for folder in {root / part for part in ("", path, *Path(path).parents)}:
                    with suppress(OSError, ValueError):  # no limit: the file is absent, or has the word "max"
                        allowed = int((folder / limit).read_text()) - int((folder / used).read_text())
                        statistics = (folder / "memory.stat").read_text()
                        cached = re.search(r"^inactive_file (\d+)", statistics, re.MULTILINE)
                        yield allowed + (int(cached.group(1)) if cached else 0)  # dropped if memory is short
