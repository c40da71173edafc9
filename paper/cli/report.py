"""`python -m paper report DIR`: rewrite the figures and report of a study, and print what was found."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from paper.report import read_study, sentences_of, write_study_report


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Rewrite the figures and report of a study."
    parser.add_argument("folder", type=str, help="folder of a study")


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and print what was found."""
    write_study_report(settings.folder)
    show(Path(settings.folder))


def show(folder: Path) -> None:
    """Print the findings of a study, and where its report is."""
    study, tables, _ = read_study(folder)
    console = Console()
    for sentence in sentences_of(study, tables, folder):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)
