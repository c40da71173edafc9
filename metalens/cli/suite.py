"""`metalens suite NAME`: many recipes by one command, into one folder."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.progress import Progress

from metalens.cli.report import show_suite
from metalens.errors import MetaLensError
from metalens.experiments.experiment import Job
from metalens.experiments.suites import SUITES, Entry, read_suite
from metalens.experiments.suites.running import SuiteWatcher, run_suite, suite_folder
from metalens.training.progress import progress_bars


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Run a suite of recipes; `metalens list` names those that are built in."
    # fmt: off
    add = parser.add_argument
    n_processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("suite", type=str, help=f"{', '.join(SUITES)}, or a YAML file")
    add("--size", type=str | None, default=None, help="smoke, small or full, if it has sizes.")
    add("--out", type=str | None, default=None, help="Folder for everything the suite writes.")
    add("--workers", type=int, default=n_processors, help="Number of parallel processes.")
    add("--threads", type=int, default=1, help="Threads of each process, for entries that do not set them.")
    add("--resume", action=ActionYesNo, default=False, help="Resume the suite in the folder.")
    add("--overwrite", action=ActionYesNo, default=False, help="Start over: first empty the suite's folder.")
    add("--checkpoint_every", type=float, default=60.0, help="Seconds between checkpoints of a training.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Run the suite, and show its results and failures."""
    for name in ("workers", "threads"):
        if settings[name] < 1:
            raise MetaLensError(f"{name} must be at least 1, got {settings[name]}.")
    suite = read_suite(settings.suite, settings.size)
    name = suite.name if suite.size is None else f"{suite.name}-{suite.size}"
    out = Path(settings.out or f"runs/{name}")
    held = suite_folder(out, suite, overwrite=settings.overwrite, resume=settings.resume)
    with held, progress_bars() as progress:
        from metalens.experiments.suites.report import write_suite_report  # slow to import

        options = {name: settings[name] for name in ("workers", "threads", "checkpoint_every")}
        command, watcher = shlex.join(["metalens", *words]), LiveSuite(progress, len(suite.entries))
        states = run_suite(suite, out, command=command, watcher=watcher, **options)
        write_suite_report(out)
    show_suite(out)
    failed = [name for name, state in states.items() if state.status == "failed"]
    n_cells = sum(len(state.cells) for state in states.values())
    if failed:
        cells = f" ({n_cells} cell{'s' * (n_cells > 1)})" if n_cells else ""
        raise MetaLensError(f"{', '.join(failed)} failed{cells}; --resume tries again what failed.")


class LiveSuite(SuiteWatcher):
    """Shows the number of finished steps, and prints each."""

    def __init__(self, progress: Progress, n_entries: int) -> None:
        self.progress = progress
        self.bar = progress.add_task("steps of the suite", total=2 * n_entries, status="")

    def plan(self, entry: Entry, jobs: Sequence[Job]) -> None:
        total = self.progress.tasks[0].total or 0
        self.progress.update(self.bar, total=total + len(jobs))

    def start(self, entry: Entry, what: str) -> None:
        self.progress.update(self.bar, status=f"{entry.name}: {what}")

    def end(self, entry: Entry, what: str, reason: str) -> None:
        self.progress.advance(self.bar)
        if reason or what not in ("plan", "finish"):
            self.progress.console.print(f"{entry.name}: {what}: {reason or 'done'}", soft_wrap=True)
