"""`metalens report DIR`: figures and report of a finished run or study, anew."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Write the figures and report of a run or study anew."
    parser.add_argument("folder", type=str, help="folder of a finished run or study")


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and show the results."""
    from metalens.results import write_report  # slow to import
    from metalens.studies.report import is_study, write_study_report

    folder = Path(settings.folder)
    (write_study_report if is_study(folder) else write_report)(folder)
    show(folder)


def show(folder: Path) -> None:
    """Print the table of results or the findings of a study, and where the report is."""
    from metalens.results import (
        by_domain,
        divergence_in_words,
        faults_in_words,
        lost_tasks_in_words,
        read_metrics,
        read_results,
        relations_in_words,
        results_table,
        summarize,
    )
    from metalens.studies.report import is_study, read_study

    console = Console()
    if is_study(folder):
        study, tables, _ = read_study(folder)
        sentences = [*study.cautions(tables), *study.findings(tables)]
    else:
        results = read_results(folder)
        console.print(results_table(results))
        primary = results["metric"].iloc[0]
        for title, rows in by_domain(results[results["metric"] == primary]).items():
            console.print(results_table(rows, title))
        metrics = read_metrics(folder)
        sentences = [
            *divergence_in_words(metrics),
            *faults_in_words(metrics),
            *lost_tasks_in_words(summarize(results)),
            *relations_in_words(metrics),
        ]
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)
