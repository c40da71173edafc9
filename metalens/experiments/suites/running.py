"""Run a suite: the cells of all its entries in parallel, fault-tolerant worker processes."""

from __future__ import annotations

import json
import time
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metalens.errors import MetaLensError
from metalens.experiments import Recipe
from metalens.experiments.arms import Cell, cells_label
from metalens.experiments.commands import command_of
from metalens.experiments.experiment import Experiment, Job, Watcher
from metalens.experiments.store import is_complete
from metalens.experiments.suites.suite import Entry, Suite
from metalens.experiments.workers import processes
from metalens.io.files import SUITE, atomic_path
from metalens.training.fit import CHECKPOINT_EVERY

Status = Literal["waiting", "done", "failed"]
REPORT = "report.html"


class Failure(NamedTuple):
    """Why something failed, with the traceback of an unexpected error."""

    reason: str
    traceback: str = ""


@dataclass
class EntryState:
    """The state of an entry.

    Attributes:
        status: `"failed"` also if only some of its cells failed.
        failure: why the entry as a whole failed.
        cells: the cells that failed, and why.
    """

    status: Status = "waiting"
    failure: Failure | None = None
    cells: dict[Cell, Failure] = field(default_factory=dict)


class SuiteWatcher:
    """Progress callbacks of a suite; no-ops by default."""

    def plan(self, entry: Entry, jobs: Sequence[Job]) -> None:
        """These jobs of an entry are left to do."""

    def start(self, entry: Entry, what: str) -> None:
        """A step of an entry was started in a process of its own."""

    def end(self, entry: Entry, what: str, reason: str) -> None:
        """The step ended; `reason` is empty on success."""


class Step(NamedTuple):
    """What one process does for an entry: plan it, do one of its jobs, or finish it."""

    kind: Literal["plan", "job", "finish"]
    entry: Entry
    job: Job | None = None

    def __str__(self) -> str:
        return self.kind if self.job is None else cells_label(self.job.left)


def run_suite(
    suite: Suite,
    folder: Path,
    *,
    workers: int,
    threads: int,
    command: str = "",
    watcher: SuiteWatcher | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> dict[str, EntryState]:
    """Run what is left of a suite, and write the files of every entry and `suite.json`.

    Every entry's folder is filled as by `metalens run`. Failures and processes that die are recorded, and the
    other steps continue. A second run into the same folder repeats what failed or was interrupted.

    Args:
        suite: what to run.
        folder: an empty folder, or that of an earlier run of the suite.
        workers: processes that work at the same time.
        threads: of each process, for entries that do not set them.
        command: the command that repeats the suite.
        watcher: progress callbacks.
        checkpoint_every: seconds between two checkpoints of a training.

    Returns:
        The state of every entry, by name.
    """
    return _Running(suite, folder, threads, command, watcher or SuiteWatcher(), checkpoint_every).run(workers)


@dataclass
class _Running:
    suite: Suite
    folder: Path
    threads: int
    command: str
    watcher: SuiteWatcher
    checkpoint_every: float

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.suite.entries]
        self.states = {name: EntryState() for name in names}
        self.failures: dict[str, dict[Cell, Failure]] = {name: {} for name in names}
        self.left = dict.fromkeys(names, 0)  # jobs
        self.queue: deque[Step] = deque()
        self.started, self.clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()

    def run(self, workers: int) -> dict[str, EntryState]:
        for entry in self.suite.entries:
            self._begin(entry)
        self._record()
        running: dict[Future[Any], Step] = {}
        with processes(workers) as submit:
            while self.queue or running:
                while self.queue and len(running) < workers:
                    step = self.queue.popleft()
                    self.watcher.start(step.entry, str(step))
                    running[submit(*self._call(step))] = step
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._end(running.pop(future), future)
        return self.states

    def _begin(self, entry: Entry) -> None:
        """Queue the plan of an entry that is not done yet."""
        target = self.folder / entry.name
        try:
            done = is_complete(target, self._recipe(entry).identity) and (target / REPORT).is_file()
        except MetaLensError as error:  # of another configuration
            self.states[entry.name] = EntryState("failed", Failure(str(error)))
            return
        if done:
            self.states[entry.name].status = "done"
        else:
            self.queue.append(Step("plan", entry))

    def _recipe(self, entry: Entry) -> Recipe:
        machine = entry.recipe.machine
        return replace(entry.recipe, machine=replace(machine, threads=machine.threads or self.threads))

    def _call(self, step: Step) -> tuple[Any, ...]:
        """Return the function of a step with its arguments."""
        recipe, target = self._recipe(step.entry), self.folder / step.entry.name
        if step.kind == "plan":
            return _plan, recipe, target
        if step.kind == "job":
            return _do, recipe, target, step.job, self.checkpoint_every
        return _finish, recipe, target, command_of(recipe), self.failures[step.entry.name]

    def _end(self, step: Step, future: Future[Any]) -> None:
        """Record the result of a step, and queue what follows from it."""
        name, state = step.entry.name, self.states[step.entry.name]
        result: Any = None
        failure: Failure | None = None
        try:
            result = future.result()
        except Exception as error:
            failure = _failure(error)
        self.watcher.end(step.entry, str(step), failure.reason if failure else "")
        if step.job is not None:
            self.left[name] -= 1
            self.failures[name] |= {cell: failure for cell in step.job.left if failure}
        elif failure:
            state.status, state.failure = "failed", failure
        elif step.kind == "plan":
            self.left[name] = len(result)
            self.queue.extend(Step("job", step.entry, job) for job in result)
            self.watcher.plan(step.entry, result)
        else:
            state.status = "failed" if result else "done"
        if step.kind == "finish":
            state.cells = self.failures[name] if failure else result
        elif state.status == "waiting" and not self.left[name]:
            self.queue.appendleft(Step("finish", step.entry))
        self._record()

    def _record(self) -> None:
        content = {
            "metalens": version("metalens"),
            "suite": self.suite.name,
            "description": self.suite.description,
            "size": self.suite.size,
            "command": self.command,
            "threads": self.threads,
            "started": self.started,
            "seconds": time.perf_counter() - self.clock,
            "entries": [self._entry(entry) for entry in self.suite.entries],
        }
        with atomic_path(self.folder / SUITE) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _entry(self, entry: Entry) -> dict[str, Any]:
        state = self.states[entry.name]
        return {
            "name": entry.name,
            "recipe": entry.recipe.name,
            "description": entry.recipe.description,
            "status": state.status,
            **(state.failure or Failure(""))._asdict(),
            "failures": [
                {**cell.arm._asdict(), "seed": cell.seed, **failure._asdict()}
                for cell, failure in state.cells.items()
            ],
        }


def _plan(recipe: Recipe, folder: Path) -> list[Job]:
    folder.mkdir(exist_ok=True)
    experiment = Experiment(recipe, folder)
    experiment.clean()
    return experiment.jobs


def _do(recipe: Recipe, folder: Path, job: Job, checkpoint_every: float) -> None:
    Experiment(recipe, folder).do([job], Watcher(), checkpoint_every)


def _finish(recipe: Recipe, folder: Path, command: str, failures: dict[Cell, Failure]) -> dict[Cell, Failure]:
    """Write tables and report, and return the failures of the cells that are not done."""
    from metalens.reports import write_report  # slow to import

    (folder / REPORT).unlink(missing_ok=True)  # lest a kill between the two leaves an old one
    experiment = Experiment(recipe, folder)
    left = [cell for job in experiment.jobs for cell in job.left]
    experiment.finish(command, {cell: failures[cell].reason for cell in left})
    write_report(folder)
    return {cell: failures[cell] for cell in left}


def _failure(error: Exception) -> Failure:
    if isinstance(error, MetaLensError):
        return Failure(str(error))
    return Failure(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
