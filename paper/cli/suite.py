"""`python -m paper suite NAME`: run several studies, each into a folder of its own."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.errors import MetaLensError
from metalens.training.progress import progress_bars
from paper.cli.report import show
from paper.suite import SUITES, read_suite, run_suite


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Run a suite of studies. The same command again runs what is left."
    parser.add_argument("suite", type=str, help=", ".join(SUITES))
    parser.add_argument("--size", type=str, default="full", help="smoke, small or full.")
    parser.add_argument("--out", type=str | None, default=None, help="Folder for the studies.")
    parser.add_argument("--workers", type=int, default=1, help="Studies that run at the same time.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each.")


def execute(settings: Namespace, words: list[str]) -> None:
    """Run the studies and print what was found and what failed."""
    for name in ("workers", "threads"):
        if settings[name] < 1:
            raise MetaLensError(f"{name} must be at least 1, got {settings[name]}.")
    studies = read_suite(settings.suite, settings.size)
    out = Path(settings.out or f"runs/{settings.suite}-{settings.size}")
    failures = {}
    with progress_bars(Console()) as progress:
        bar = progress.add_task("studies", total=len(studies), status="")
        for name, reason in run_suite(studies, out, workers=settings.workers, threads=settings.threads):
            progress.console.print(f"{name}: {reason or 'done'}", highlight=False, markup=False)
            progress.advance(bar)
            failures |= {name: reason} if reason else {}
    for name in (name for name in studies if name not in failures):
        Console().print(f"\n{name}", style="bold")
        show(out / name)
    if failures:
        raise MetaLensError(f"{', '.join(failures)} failed; the same command tries them again.")
