"""How the outer step of an objective is executed: by a rule or, if requested, by a short trial."""

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from metalens.batching import Plan
from metalens.errors import MetaLensError
from metalens.execution.compiling import CompiledObjective, compile_refusal
from metalens.execution.machine import Machine
from metalens.execution.malloc import return_freed_memory
from metalens.execution.memory import fitting_chunk, needs_mixed_mode, usable_bytes
from metalens.execution.mixed import check_mixed
from metalens.execution.replicas import Replicas
from metalens.execution.update import Update
from metalens.execution.whole_step import WholeStep
from metalens.io.files import atomic_path, cache_folder
from metalens.learners.base import Mode
from metalens.learners.measure import measure_vectorized
from metalens.networks.modes import module_mode
from metalens.objective import Objective, outer_loss, trained_parameters
from metalens.settings import plain_settings
from metalens.tasks import Task, n_tasks

# A trial must be cheap compared to the training, and a choice must not depend on the noise of its timings.
MIN_PROFILED_STEPS = 100
CLEARLY_FASTER = 0.8
# Compiling took 10 to 60 s on a processor, and made vectorized steps 2 to 5 times as fast.
MIN_COMPILED_SECONDS = 90.0


@dataclass(frozen=True)
class Execution:
    """How a step is executed, and why.

    Attributes:
        batching: how tasks are mapped: `"vmap"` or `"loop"`.
        compiled: whether losses and gradient are one compiled program.
        whole: whether clipping and the optimizer are in it, too.
        reason: why it was chosen.
        seconds: measured time of a step's losses and gradient, by way, and of what else is compiled; empty
            without a trial.
        chunk: how many tasks are computed at a time; `None` for all.
        replicas: number of objectives trained side by side.
        differentiation: how inner loops are differentiated: `"reverse"` or `"mixed"`.
    """

    batching: Plan
    compiled: bool
    reason: str
    seconds: dict[str, float]
    chunk: int | None = None
    replicas: int = 1
    differentiation: Mode = "reverse"
    whole: bool = False

    def __str__(self) -> str:
        way = f"{self.replicas} side by side, " if self.replicas > 1 else ""
        way += self.batching + (", compiled" if self.compiled else "")
        way += " with the optimizer" if self.whole else ""
        way += ", mixed mode" if self.differentiation == "mixed" else ""
        if self.chunk is not None:
            way += f" in chunks of {self.chunk} task" + "s" * (self.chunk > 1)
        times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        return f"{way} ({self.reason}{': ' if times else ''}{times})"


def executable(
    objective: Objective | Replicas,
    tasks: Task,
    machine: Machine,
    *,
    steps: int,
    update: Update | None = None,
    execution: Execution | None = None,
) -> tuple[nn.Module, Execution]:
    """Choose how to execute the outer steps of a training, and return the module that does it.

    What the machine leaves open (`"auto"`) is chosen by rule: tasks mapped by `Learner.plan`; inner loops of
    two or more steps differentiated in mixed mode if reverse mode does not fit into memory; all tasks
    at once if they then fit (see `metalens.execution.memory.fitting_chunk`); not compiled. A step in mixed
    mode is compared with one in reverse mode first.

    With `machine.profile`, a training of at least 100 steps is profiled: a few steps are timed by loop and by
    `vmap`, and the rule is overruled if the other way is clearly faster and needs no smaller chunks. If the
    steps would then take more than 90 s, a compiled step is tried, and taken if it is clearly faster. The
    choice is kept in the cache folder for the same work on the same machine: repeating a training repeats its
    execution, and so its results to the last bit. Several processes follow the rule, to do the same.

    Args:
        objective: what will be trained, on its device, with the machine's `batching`, `mode` and, if it is a
            number, `chunk`; all are set to the choice. Replicas are always vectorized.
        tasks: a batch as in training, on the same device.
        machine: what is fixed, and what to choose.
        steps: number of outer steps.
        update: what follows the gradient, if it may be compiled, too.
        execution: the choice of a training that is resumed.

    Returns:
        The module `tasks -> loss terms`, a `WholeStep` where it also changes the weights, and the choice.

    Raises:
        MetaLensError: `compile=True` or `differentiation="mixed"` is not possible.

    >>> from metalens import MAML, Machine, Objective, Sinusoid, mlp
    >>> str(executable(Objective(MAML(mlp())), Sinusoid().batch(range(4)), Machine(), steps=10)[1])
    'vmap (by rule)'
    """
    if execution is None:
        module, execution = _chosen(objective, tasks, machine, steps, update)
        if execution.compiled and update is not None and update.refusal is not None:
            note = f"; the optimizer is not compiled: {update.refusal}"
            execution = replace(execution, reason=execution.reason + note)
    else:
        objective.batching, objective.chunk = execution.batching, execution.chunk
        objective.learner.differentiation = execution.differentiation
        module = _module(objective, execution, update)
    n = len(objective.objectives) if isinstance(objective, Replicas) else 1
    mode, whole = objective.learner.differentiation, isinstance(module, WholeStep)
    return module, replace(execution, chunk=objective.chunk, replicas=n, differentiation=mode, whole=whole)


def is_trained(module: nn.Module) -> bool:
    """Return whether a module has anything to train."""
    return bool(trained_parameters(module))


def _chosen(
    objective: Objective | Replicas, tasks: Task, machine: Machine, steps: int, update: Update | None
) -> tuple[nn.Module, Execution]:
    if isinstance(objective, Objective):  # replicas are compared with each objective alone
        measure_vectorized(objective.learner, tasks, objective.batching)
    rule = objective.learner.plan(objective.batching)
    if not is_trained(objective):
        return objective, Execution(rule, False, "nothing is trained", {})
    is_compiled = machine.compile is True
    if is_compiled and (refusal := compile_refusal(objective)) is not None:
        raise MetaLensError(f"compile=True is not possible: {refusal}.")
    two_ways = objective.batching == "auto" and objective.learner.vmap_refusal is None
    note = "" if isinstance(objective, Replicas) or is_compiled else _differentiate(objective, tasks, machine)
    is_open = not is_compiled and (two_ways or machine.compile == "auto")
    is_long, several = steps >= MIN_PROFILED_STEPS, objective.processes.world_size > 1
    is_profiled = machine.profile and is_long and is_open and not several
    other: Plan = "loop" if rule == "vmap" else "vmap"
    ways: list[Plan] = [rule, other] if two_ways and is_profiled else [rule]
    if isinstance(objective, Objective) and machine.chunk == "auto" and not is_compiled:
        ways = _fit_into_memory(objective, tasks, ways, machine)
    if is_profiled:
        return _profiled(objective, tasks, machine, steps, ways, update)
    objective.batching = rule
    reason = "by rule" if is_open else "as asked"
    if machine.profile and not is_long:
        reason = "by rule, as the run is short"
    if several and is_open:
        reason = "by rule, the same in all processes"
    execution = Execution(rule, is_compiled, reason + note, {})
    return _module(objective, execution, update), execution


def _module(objective: Objective | Replicas, execution: Execution, update: Update | None) -> nn.Module:
    if not execution.compiled:
        return objective
    if update is None or update.refusal is not None:
        return CompiledObjective(objective)
    return WholeStep(objective, update)


def _differentiate(objective: Objective, tasks: Task, machine: Machine) -> str:
    """Set how the inner loop is differentiated, and return why, if it is not the usual way."""
    learner: Any = objective.learner
    if machine.differentiation == "reverse" or learner.mixed_refusal is not None:
        return ""
    with _leaving_no_trace(objective):
        if machine.differentiation == "mixed":
            check_mixed(objective, tasks)
            return ""
        if learner.inner_steps == 1:
            return ""  # memory is saved from the second step on
        usable = usable_bytes(objective) / 2**30
        note = f"; reverse mode would not fit into the {usable:.2g} GiB that can be used"
        try:
            if not needs_mixed_mode(objective, tasks):
                return ""
            check_mixed(objective, tasks)
        except MetaLensError as error:
            return f"{note}; {error}"
        learner.differentiation = "mixed"
    if machine.keep_freed_memory:
        return_freed_memory()  # as memory is short
    return note


def _fit_into_memory(objective: Objective, tasks: Task, ways: list[Plan], machine: Machine) -> list[Plan]:
    """Set the chunk of the first way on the objective, and return the ways that need no smaller one."""
    batching, chunks = objective.batching, {}
    try:
        with _leaving_no_trace(objective):
            for way in ways:
                objective.batching = way
                chunks[way] = fitting_chunk(objective, tasks)
    finally:
        objective.batching = batching
    objective.chunk = chunks[ways[0]]
    if objective.chunk is not None and machine.keep_freed_memory:
        return_freed_memory()  # as memory is short
    sizes = {way: n_tasks(tasks) if chunk is None else chunk for way, chunk in chunks.items()}
    return [way for way in ways if sizes[way] >= sizes[ways[0]]]


def _profiled(
    objective: Objective | Replicas,
    tasks: Task,
    machine: Machine,
    steps: int,
    ways: list[Plan],
    update: Update | None,
) -> tuple[nn.Module, Execution]:
    """Return the choice in the cache, or else that of a trial."""
    if len(ways) == 1:
        objective.batching = ways[0]
    path = cache_folder() / "executions" / f"{_work_name(objective, tasks, steps, machine)}.json"
    try:
        execution = Execution(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):  # missing or damaged
        with _leaving_no_trace(objective):
            module, execution = _tried(objective, tasks, machine, steps, ways, update)
        with suppress(OSError):  # the next training measures again
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                partial.write_text(json.dumps(asdict(execution)), encoding="utf-8")
    else:
        module = _module(objective, execution, update)
    objective.batching = execution.batching
    return module, execution


def _tried(
    objective: Objective | Replicas,
    tasks: Task,
    machine: Machine,
    steps: int,
    ways: list[Plan],
    update: Update | None,
) -> tuple[nn.Module, Execution]:
    """Time the ways, of which the first is taken unless the last is clearly faster, and compiling."""
    seconds: dict[str, float] = {}
    for way in ways:
        objective.batching = way
        seconds[way] = _seconds(objective, tasks)
    best = ways[-1] if seconds[ways[-1]] < CLEARLY_FASTER * seconds[ways[0]] else ways[0]
    objective.batching = best
    plain = Execution(best, False, "measured", seconds)
    is_long = steps * seconds[best] > MIN_COMPILED_SECONDS
    if machine.compile is False or not is_long or compile_refusal(objective) is not None:
        return objective, plain
    compiled = replace(plain, compiled=True)
    try:
        module = _module(objective, compiled, update)
        with nullcontext() if update is None else update.undone():
            module(tasks)
            seconds["compiled"] = _seconds(module, tasks)
    except MetaLensError as error:
        return objective, replace(plain, reason=f"measured; {error}")
    is_faster = seconds["compiled"] < CLEARLY_FASTER * seconds[best]
    return (module, compiled) if is_faster else (objective, plain)


def _seconds(module: nn.Module, tasks: Task) -> float:
    """Return the median time of a step's losses and gradient, with the optimizer if it is compiled."""
    from torch.utils.benchmark import Timer  # imports setuptools, so only measuring waits for it

    def step() -> None:
        loss = outer_loss(module(tasks)).sum()
        if not isinstance(module, WholeStep):
            loss.backward()

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.2).median


@contextmanager
def _leaving_no_trace(objective: nn.Module) -> Iterator[None]:
    """Put the objective into training mode; restore gradients, mode and random streams afterwards."""
    devices = range(torch.cuda.device_count())
    try:
        with module_mode(objective, training=True), torch.random.fork_rng(devices=devices):
            yield
    finally:
        objective.zero_grad()


def _work_name(objective: Objective | Replicas, tasks: Task, steps: int, machine: Machine) -> str:
    """Return a cache key for this work on this machine."""
    if isinstance(objective, Replicas):
        objective = objective.objectives[0]  # their number is an axis of the tasks
    settings = [plain_settings(module) for module in objective.modules()]
    here = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    shapes = [(leaf.shape, leaf.dtype, leaf.device) for leaf in pytree.tree_leaves(tasks)]
    how = (objective.learner.differentiation, machine.compile)
    work = (objective, settings, shapes, steps, *how, here, torch.__version__)
    return hashlib.sha256(repr(work).encode()).hexdigest()[:32]
