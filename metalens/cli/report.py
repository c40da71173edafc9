"""`metalens report DIR`: figures and report of a finished run, anew."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Write a run's figures and report anew."
    parser.add_argument("folder", type=str, help="folder of a finished run")


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and show the results."""
    from metalens.results import write_report  # slow to import

    folder = Path(settings.folder)
    write_report(folder)
    show(folder)


def show(folder: Path) -> None:
    """Print the table of results, and where the report is."""
    from metalens.results import read_metrics, read_results, relations_in_words, results_table

    console = Console()
    console.print(results_table(read_results(folder)))
    for sentence in relations_in_words(read_metrics(folder)):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)
