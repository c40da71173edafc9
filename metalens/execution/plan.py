"""How the outer step of an objective is executed on this machine: chosen by a rule and a short trial."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from metalens.batching import Plan
from metalens.errors import MetaLensError
from metalens.execution.compiling import CompiledObjective, compile_refusal
from metalens.execution.memory import fitting_chunk
from metalens.execution.replicas import Replicas
from metalens.io.files import atomic_path, cache_folder
from metalens.learners.base import module_mode
from metalens.objective import Objective, outer_loss, trained_parameters
from metalens.tasks import Task, n_tasks

Compile = Literal["auto"] | bool

# A trial must cost little beside the run, and a choice must not hang on the noise of its timings.
TRIAL_FROM_STEPS = 100
CLEARLY_FASTER = 0.8
# Compiling took 10 to 60 s on a processor, and made vectorized steps 2 to 5 times as fast.
COMPILE_FROM_SECONDS = 90.0


@dataclass(frozen=True)
class Execution:
    """The way a step is executed, and what it was chosen by.

    Attributes:
        batching: how tasks are mapped: `"vmap"` or `"loop"`.
        compiled: whether losses and gradient are one compiled program.
        reason: why, in words.
        seconds: measured time of a step's losses and gradient, by way; empty without a trial.
        chunk: how many tasks are computed at a time; `None` for all.
        replicas: number of objectives that are trained side by side.
    """

    batching: Plan
    compiled: bool
    reason: str
    seconds: dict[str, float]
    chunk: int | None = None
    replicas: int = 1

    def __str__(self) -> str:
        way = f"{self.replicas} side by side, " if self.replicas > 1 else ""
        way += self.batching + (", compiled" if self.compiled else "")
        if self.chunk is not None:
            way += f" in chunks of {self.chunk} task" + "s" * (self.chunk > 1)
        times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        return f"{way} ({self.reason}{': ' if times else ''}{times})"


def prepare(
    objective: Objective | Replicas,
    tasks: Task,
    *,
    steps: int,
    compile: Compile = "auto",
    chosen: Execution | None = None,
) -> tuple[nn.Module, Execution]:
    """Choose how to execute the outer steps of a run, and return the module that does it.

    What the objective and `compile` leave open (`"auto"`) is decided so: a run of fewer than 100 steps
    follows the rule of `Learner.plan` and does not compile. For a longer one a few steps are timed by loop
    and by `vmap`, and the rule is overruled where the other way is clearly faster. A run that would then
    take more than 90 s in steps is compiled where that is possible, and stays so if the compiled step is
    clearly faster. Several processes must all do the same, so they follow the rule, untimed. Nothing of the
    objective changes except `batching` and `chunk`, which become what was chosen.

    `chunk="auto"` is decided first, by `metalens.execution.memory.fitting_chunk`: all tasks at once where
    they fit into memory, or where `compile=True` asks for it. The way that the rule does not take is only
    tried if it needs no smaller chunks.

    The choice is kept in the cache folder, for the same work on the same machine: repeating a run repeats
    its execution, and so its results to the last bit.

    Args:
        objective: what will be trained, on its device; replicas are always vectorized.
        tasks: a batch as in training, on the same device.
        steps: number of outer steps of the run.
        compile: `True` compiles, `False` does not.
        chosen: what was chosen before, where a training goes on: nothing is decided then.

    Returns:
        The module `tasks -> loss terms`, and the choice.

    Raises:
        MetaLensError: `compile=True` is not possible.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> str(prepare(Objective(MAML(mlp())), Sinusoid().batch(range(4)), steps=10)[1])
    'vmap (by rule, as the run is short)'
    """
    if chosen is not None:
        objective.batching, objective.chunk = chosen.batching, chosen.chunk
        return CompiledObjective(objective) if chosen.compiled else objective, chosen
    module, execution = _prepare(objective, tasks, steps, compile)
    chunk = objective.chunk if isinstance(objective.chunk, int) else None
    replicas = len(objective.objectives) if isinstance(objective, Replicas) else 1
    return module, replace(execution, chunk=chunk, replicas=replicas)


def _prepare(
    objective: Objective | Replicas, tasks: Task, steps: int, compile: Compile
) -> tuple[nn.Module, Execution]:
    learner = objective.learner
    rule = learner.plan(objective.batching)
    if not is_trained(objective):
        return objective, Execution(rule, False, "nothing is trained", {})
    if compile is True and (refusal := compile_refusal(objective)) is not None:
        raise MetaLensError(f"compile=True is not possible: {refusal}.")
    two_ways = objective.batching == "auto" and learner.vmap_refusal is None
    several = objective.processes.world_size > 1
    is_open = compile is not True and (two_ways or compile == "auto")
    is_measured = steps >= TRIAL_FROM_STEPS and is_open and not several
    other: Plan = "loop" if rule == "vmap" else "vmap"
    ways: list[Plan] = [rule, other] if two_ways and is_measured else [rule]
    if isinstance(objective, Objective) and objective.chunk == "auto":
        ways = _choose_chunk(objective, tasks, ways, compile)
    if len(ways) == 1:
        objective.batching = rule
    if not is_measured:
        reason = "by rule, as the run is short" if steps < TRIAL_FROM_STEPS else "as asked"
        if several and is_open:
            reason = "by rule, the same in all processes"
        module = CompiledObjective(objective) if compile is True else objective
        return module, Execution(rule, compile is True, reason, {})
    memory = cache_folder() / "executions" / f"{_fingerprint(objective, tasks, steps, compile)}.json"
    execution = _recall(memory)
    if execution is None:
        with _leaving_nothing(objective):
            module, execution = _choose(objective, tasks, steps, ways, compile)
        _remember(memory, execution)
    else:
        module = CompiledObjective(objective) if execution.compiled else objective
    objective.batching = execution.batching
    return module, execution


def is_trained(module: nn.Module) -> bool:
    """Tell whether a module has anything to train."""
    return bool(trained_parameters(module))


def _choose_chunk(objective: Objective, tasks: Task, ways: list[Plan], compile: Compile) -> list[Plan]:
    """Give the objective the chunk of the first way, and return the ways that need no smaller one."""
    if compile is True:
        objective.chunk = None  # a program computes all tasks at once
        return ways
    batching, chunks = objective.batching, {}
    try:
        with _leaving_nothing(objective):
            for way in ways:
                objective.batching = way
                chunks[way] = fitting_chunk(objective, tasks)
    finally:
        objective.batching = batching
    objective.chunk = chunks[ways[0]]
    sizes = {way: n_tasks(tasks) if chunk is None else chunk for way, chunk in chunks.items()}
    return [way for way in ways if sizes[way] >= sizes[ways[0]]]


def _choose(
    objective: Objective | Replicas, tasks: Task, steps: int, ways: list[Plan], compile: Compile
) -> tuple[nn.Module, Execution]:
    """Measure the ways, of which the first is taken unless the last is clearly faster, and compiling."""
    seconds: dict[str, float] = {}
    for way in ways:
        objective.batching = way
        seconds[way] = _seconds(objective, tasks)
    best = ways[-1] if seconds[ways[-1]] < CLEARLY_FASTER * seconds[ways[0]] else ways[0]
    objective.batching = best
    is_long = steps * seconds[best] > COMPILE_FROM_SECONDS
    if compile is False or not is_long or compile_refusal(objective) is not None:
        return objective, Execution(best, False, "measured", seconds)
    try:
        module = CompiledObjective(objective)
        module(tasks)
    except MetaLensError as error:
        return objective, Execution(best, False, f"measured; {error}", seconds)
    seconds["compiled"] = _seconds(module, tasks)
    if seconds["compiled"] < CLEARLY_FASTER * seconds[best]:
        return module, Execution(best, True, "measured", seconds)
    return objective, Execution(best, False, "measured", seconds)


def _seconds(module: nn.Module, tasks: Task) -> float:
    """Return the time of a step's losses and their gradient, a median."""
    from torch.utils.benchmark import Timer  # imports setuptools, so only who measures waits for it

    def step() -> None:
        outer_loss(module(tasks)).sum().backward()

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.2).median


@contextmanager
def _leaving_nothing(objective: nn.Module) -> Iterator[None]:
    """Let steps be made in training mode that leave no gradient, and nothing of the random stream, behind."""
    devices = range(torch.cuda.device_count())
    try:
        with module_mode(objective, training=True), torch.random.fork_rng(devices=devices):
            yield
    finally:
        objective.zero_grad()


def _fingerprint(objective: Objective | Replicas, tasks: Task, steps: int, compile: Compile) -> str:
    """Return a name for this work on this machine."""
    if isinstance(objective, Replicas):
        objective = objective.objectives[0]  # their number is an axis of the tasks
    settings = [
        {name: repr(v) for name, v in vars(module).items() if name[0] != "_" and not callable(v)}
        for module in objective.modules()
    ]
    machine = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    shapes = [(leaf.shape, leaf.dtype, leaf.device) for leaf in pytree.tree_leaves(tasks)]
    work = (objective, settings, shapes, steps, compile, machine, torch.__version__)
    return hashlib.sha256(repr(work).encode()).hexdigest()[:32]


def _recall(path: Path) -> Execution | None:
    try:
        return Execution(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # not there, or damaged: measured again


def _remember(path: Path, execution: Execution) -> None:
    with suppress(OSError):  # without a memory the next run measures again
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(asdict(execution)), encoding="utf-8")
