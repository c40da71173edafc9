"""Run a suite: the cells of all its entries in parallel processes, of which any may fail or die."""

from __future__ import annotations

import json
import shlex
import time
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from metalens.errors import MetaLensError
from metalens.experiments import RECIPES, Recipe
from metalens.experiments.arms import Cell
from metalens.experiments.commands import options_of
from metalens.experiments.experiment import Experiment, Job, Watcher
from metalens.experiments.store import is_complete
from metalens.experiments.suites.suite import Entry, Suite
from metalens.experiments.workers import processes
from metalens.io.files import SUITE, atomic_path
from metalens.training.fit import CHECKPOINT_EVERY
from paper import get_study
from paper.study import Study

Status = Literal["waiting", "done", "failed"]
REPORT = "report.html"


class Failure(NamedTuple):
    """A sentence on what went wrong, and where it comes from if it was not foreseen."""

    reason: str
    traceback: str = ""


@dataclass
class State:
    """How far an entry is.

    Attributes:
        status: `"failed"` also if only some of its cells did.
        failure: why the entry failed, if it is not for its cells.
        cells: those that failed, and why.
    """

    status: Status = "waiting"
    failure: Failure | None = None
    cells: dict[Cell, Failure] = field(default_factory=dict)


class SuiteWatcher:
    """Told what a suite is doing; does nothing unless overridden."""

    def plan(self, entry: Entry, jobs: Sequence[Job]) -> None:
        """The entry was assembled, and these jobs are left."""

    def start(self, entry: Entry, what: str) -> None:
        """Something of an entry was started in a process of its own."""

    def end(self, entry: Entry, what: str, reason: str) -> None:
        """It ended; without a reason, well."""


class Step(NamedTuple):
    """What one process does for an entry: plan it, a job of it, finish it, or all of a study."""

    kind: Literal["plan", "job", "finish", "study"]
    entry: Entry
    job: Job | None = None

    def __str__(self) -> str:
        return self.kind if self.job is None else _names(self.job.left)


def run_suite(
    suite: Suite,
    folder: Path,
    *,
    workers: int,
    threads: int,
    command: str = "",
    watcher: SuiteWatcher | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> dict[str, State]:
    """Run what is left of a suite, write the files of every entry and `suite.json`.

    Every entry's folder is filled as `metalens run` fills one. What fails, or whose process dies, is
    recorded, and the rest goes on. Whatever is interrupted or failed is tried again when the suite is run
    again into the same folder.

    Args:
        suite: what to run.
        folder: an empty folder, or that of an earlier run of the suite.
        workers: processes that work at the same time.
        threads: processor threads of each, for entries that do not say themselves.
        command: the command that repeats the suite.
        watcher: told about progress.
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
        self.states = {name: State() for name in names}
        self.failures: dict[str, dict[Cell, Failure]] = {name: {} for name in names}
        self.left = dict.fromkeys(names, 0)  # jobs
        self.queue: deque[Step] = deque()
        self.started, self.clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()

    def run(self, workers: int) -> dict[str, State]:
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
        """Let an entry that is not yet done be planned."""
        target = self.folder / entry.name
        try:
            done = is_complete(target, _identity(self._experiment(entry))) and (target / REPORT).is_file()
        except MetaLensError as error:  # of another configuration
            self.states[entry.name] = State("failed", Failure(str(error)))
            return
        if done:
            self.states[entry.name].status = "done"
        else:
            self.queue.append(Step("plan" if isinstance(entry.experiment, Recipe) else "study", entry))

    def _experiment(self, entry: Entry) -> Recipe | Study:
        experiment = entry.experiment
        if isinstance(experiment, Recipe):
            machine = replace(experiment.machine, threads=experiment.machine.threads or self.threads)
            return replace(experiment, machine=machine)
        return experiment

    def _call(self, step: Step) -> tuple[Any, ...]:
        """Return the function of a step with its arguments."""
        experiment, target = self._experiment(step.entry), self.folder / step.entry.name
        if step.kind == "plan":
            return _plan, experiment, target
        if step.kind == "job":
            return _do, experiment, target, step.job, self.checkpoint_every
        if step.kind == "finish":
            failures = self.failures[step.entry.name]
            return _finish, experiment, target, command_of(experiment), failures
        return _study, experiment, target, command_of(experiment), self.threads

    def _end(self, step: Step, future: Future[Any]) -> None:
        """Note what came out of a step, and let what follows from it be done."""
        name, state = step.entry.name, self.states[step.entry.name]
        result: Any = None
        failure: Failure | None = None
        try:
            result = future.result()
        except Exception as error:
            failure = _in_words(error)
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
            "experiment": entry.experiment.name,
            "description": entry.experiment.description,
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
    """Write tables and report, and return those of the failures whose cells are not done."""
    from metalens.reports import write_report  # slow to import

    (folder / REPORT).unlink(missing_ok=True)  # killed between the two, there is no old one
    experiment = Experiment(recipe, folder)
    left = [cell for job in experiment.jobs for cell in job.left]
    experiment.finish(command, {cell: failures[cell].reason for cell in left})
    write_report(folder)
    return {cell: failures[cell] for cell in left}


def _study(study: Study, folder: Path, command: str, threads: int) -> None:
    from paper.report import write_study_report
    from paper.study import run_study

    torch.set_num_threads(threads)
    folder.mkdir(exist_ok=True)
    if not is_complete(folder, _identity(study)):
        run_study(study, folder, command=command)
    write_study_report(folder)


def _identity(experiment: Recipe | Study) -> dict[str, Any]:
    return experiment.identity if isinstance(experiment, Recipe) else asdict(experiment)


def _in_words(error: Exception) -> Failure:
    if isinstance(error, MetaLensError):
        return Failure(str(error))
    return Failure(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def _names(cells: Sequence[Cell]) -> str:
    arms = list(dict.fromkeys(str(cell.arm) for cell in cells))
    seeds = sorted({cell.seed for cell in cells})
    who = arms[0] if len(arms) == 1 else f"{len(arms)} arms"
    return f"{who}, " + (f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds")


def command_of(experiment: Recipe | Study) -> str:
    """Return the command that runs a recipe or study with its settings."""
    name = experiment.name
    usual = RECIPES[name] if name in RECIPES else get_study(name)
    return shlex.join(["metalens", "run", name, *options_of(experiment, usual)])
