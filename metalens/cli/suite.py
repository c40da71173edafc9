"""`metalens suite NAME`: many recipes by one command, into one folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.console import Console
from rich.progress import Progress

from metalens.cli.progress import progress_bars
from metalens.cli.report import show_suite
from metalens.errors import MetaLensError
from metalens.experiments.experiment import Job
from metalens.experiments.suites import SUITES, Entry, read_suite
from metalens.experiments.suites.folder import suite_folder
from metalens.experiments.suites.running import SuiteWatcher, run_suite


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Run a suite of recipes; `metalens list` names those that are built in."
    parser.add_argument("suite", type=str, help=f"{', '.join(SUITES)}, or a YAML file")
    parser.add_argument(
        "--size", type=str | None, default=None, help="smoke, small or full, if it has sizes."
    )
    parser.add_argument("--out", type=str | None, default=None, help="Folder for all that the suite writes.")
    parser.add_argument(
        "--workers", type=int, default=_n_processors(), help="Processes that work at the same time."
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="Threads of each process, for entries that do not set them."
    )
    parser.add_argument("--resume", action=ActionYesNo, default=False, help="Resume the suite in the folder.")
    parser.add_argument(
        "--overwrite", action=ActionYesNo, default=False, help="Start over: first empty the suite's folder."
    )
    parser.add_argument(
        "--checkpoint_every", type=float, default=60.0, help="Seconds between checkpoints of a training."
    )


def execute(settings: Namespace, words: list[str]) -> None:
    """Run the suite, and show its results and failures."""
    for name in ("workers", "threads"):
        if settings[name] < 1:
            raise MetaLensError(f"{name} must be at least 1, got {settings[name]}.")
    suite = read_suite(settings.suite, settings.size)
    name = suite.name if suite.size is None else f"{suite.name}-{suite.size}"
    out = Path(settings.out or f"runs/{name}")
    held = suite_folder(out, suite, overwrite=settings.overwrite, resume=settings.resume)
    with held, progress_bars(Console()) as progress:
        from metalens.experiments.suites.report import write_suite_report  # slow to import

        states = run_suite(
            suite,
            out,
            workers=settings.workers,
            threads=settings.threads,
            command=shlex.join(["metalens", *words]),
            watcher=LiveSuite(progress, len(suite.entries)),
            checkpoint_every=settings.checkpoint_every,
        )
        write_suite_report(out)
    show_suite(out)
    failed = [name for name, state in states.items() if state.status == "failed"]
    n_cells = sum(len(state.cells) for state in states.values())
    if failed:
        cells = f" ({n_cells} cell{'s' * (n_cells > 1)})" if n_cells else ""
        raise MetaLensError(f"{', '.join(failed)} failed{cells}; --resume tries again what failed.")


def _n_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LiveSuite(SuiteWatcher):
    """Shows how many steps are done, and prints each that ended."""

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
            text = f"{entry.name}: {what}: {reason or 'done'}"
            self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
