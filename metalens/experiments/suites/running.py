"""Run a suite: lock its folder, and run the cells of its entries in parallel worker processes."""

import json
import shutil
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from metalens.errors import MetaLensError
from metalens.experiments import Recipe
from metalens.experiments.arms import Cell, cells_label
from metalens.experiments.experiment import Experiment, Job, Watcher
from metalens.experiments.loading import command_of
from metalens.experiments.store import is_complete
from metalens.experiments.suites.report import read_state
from metalens.experiments.suites.suite import Entry, Suite
from metalens.experiments.workers import processes
from metalens.io.files import SUITE, atomic_path, remove_partials, writable_folder
from metalens.training.train import CHECKPOINT_EVERY

Status = Literal["waiting", "done", "failed"]
REPORT = "report.html"


class Failure(NamedTuple):
    """The reason of a failure, with the traceback of an unexpected error."""

    reason: str
    traceback: str = ""


@dataclass
class EntryState:
    """The state of an entry: `"failed"` also if only some of its cells failed."""

    status: Status = "waiting"
    failure: Failure | None = None  # of the entry as a whole
    cells: dict[Cell, Failure] = field(default_factory=dict)


class SuiteWatcher:
    """Progress callbacks of a suite; no-ops by default."""

    def plan(self, entry: Entry, jobs: Sequence[Job]) -> None:
        """These jobs of an entry are left to do."""

    def start(self, entry: Entry, what: str) -> None:
        """A step of an entry was started in a new process."""

    def end(self, entry: Entry, what: str, reason: str) -> None:
        """The step ended; `reason` is empty on success."""


class Step(NamedTuple):
    """A call in one process: plan an entry, do one of its jobs, or finish it."""

    kind: Literal["plan", "job", "finish"]
    entry: Entry
    job: Job | None = None

    def __str__(self) -> str:
        return self.kind if self.job is None else cells_label(self.job.left)


@contextmanager
def suite_folder(folder: Path, suite: Suite, *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Lock the folder of a suite for the block, after deleting an earlier suite if `overwrite`.

    Raises:
        MetaLensError: the folder has other files, or an earlier suite without a flag; it is locked.
    """
    if overwrite and resume:
        raise MetaLensError("Only one of --overwrite and --resume can be given.")
    writable_folder(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            found = [path for path in folder.iterdir() if path.name[0] != "."]
            if found and not (folder / SUITE).is_file():
                raise MetaLensError(f"{folder} has other files than those of a suite; choose another --out.")
            if found and not (overwrite or resume):
                raise MetaLensError(
                    f"{folder} has a suite already; resume with --resume, or start over with --overwrite."
                )
            if found and resume:
                before = read_state(folder)
                if (before["suite"], before["size"]) != (suite.name, suite.size):
                    raise MetaLensError(
                        f"{folder} has the suite {before['suite']}, size {before['size']}, not {suite.name}, "
                        f"size {suite.size}; choose another --out."
                    )
            # SUITE goes last: a folder without it is never overwritten.
            for path in sorted(found, key=lambda path: path.name == SUITE) if overwrite else []:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            remove_partials(folder)
            yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("resume with --resume") from error
    except Timeout:
        raise MetaLensError(f"Another process writes {folder} now; choose another --out.") from None


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
    """Run the unfinished steps of a suite, and write the files of every entry and `suite.json`.

    Every entry's folder is filled as by `metalens run`. Failures and processes that die are recorded, and the
    other steps continue. A second run into the same folder repeats failed and interrupted steps.

    Args:
        suite: to run.
        folder: empty, or of an earlier run of the suite.
        workers: number of parallel processes.
        threads: of each process, for entries that do not set them.
        command: that repeats the suite.
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
        """Queue the plan of an unfinished entry."""
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
        """Record the result of a step, and queue the next steps of its entry."""
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
            "entries": [self._entry(entry, self.states[entry.name]) for entry in self.suite.entries],
        }
        with atomic_path(self.folder / SUITE) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _entry(self, entry: Entry, state: EntryState) -> dict[str, Any]:
        cells = state.cells.items()
        return {
            "name": entry.name,
            "recipe": entry.recipe.name,
            "description": entry.recipe.description,
            "status": state.status,
            **(state.failure or Failure(""))._asdict(),
            "failures": [{**cell.arm._asdict(), "seed": cell.seed, **why._asdict()} for cell, why in cells],
        }


def _plan(recipe: Recipe, folder: Path) -> list[Job]:
    folder.mkdir(exist_ok=True)
    experiment = Experiment(recipe, folder)
    experiment.clean()
    return experiment.jobs


def _do(recipe: Recipe, folder: Path, job: Job, checkpoint_every: float) -> None:
    Experiment(recipe, folder).do([job], Watcher(), checkpoint_every)


def _finish(recipe: Recipe, folder: Path, command: str, failures: dict[Cell, Failure]) -> dict[Cell, Failure]:
    """Write tables and report, and return the failures of unfinished cells."""
    from metalens.reports import write_report  # slow to import

    (folder / REPORT).unlink(missing_ok=True)  # a kill must not leave an old one
    experiment = Experiment(recipe, folder)
    left = [cell for job in experiment.jobs for cell in job.left]
    experiment.finish(command, {cell: failures[cell].reason for cell in left})
    write_report(folder)
    return {cell: failures[cell] for cell in left}


def _failure(error: Exception) -> Failure:
    if isinstance(error, MetaLensError):
        return Failure(str(error))
    return Failure(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
