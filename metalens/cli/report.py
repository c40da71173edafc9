"""`metalens report DIR`: figures and report of a finished run or study, or of a trained model, anew."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.files import MODEL


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Write the figures and report of a run or study, or of a trained model, anew."
    parser.add_argument("folder", type=str, help="folder of a finished run or study, or of a model")


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and show the results."""
    from metalens.results import write_report  # slow to import
    from metalens.studies.report import is_study, write_study_report

    folder = Path(settings.folder)
    if is_model(folder):
        from metalens.results.model_report import write_model_report

        write_model_report(folder)
        show_model(folder)
        return
    (write_study_report if is_study(folder) else write_report)(folder)
    show(folder)


def is_model(folder: Path) -> bool:
    """Tell whether a folder is that of a model that was trained on people's own data."""
    return (folder / MODEL).is_file()


def show_model(folder: Path) -> None:
    """Print the scores of all models in the primary metric, which adapts and why, and where the report is."""
    from metalens.results import results_table
    from metalens.results.model_report import choice_in_words, read_model_folder

    console, model = Console(), read_model_folder(folder)
    results = model.results
    console.print(results_table(results[results["metric"] == results["metric"].iloc[0]]))
    for sentence in choice_in_words(model.comparison, model.training["chosen"]):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


def show(folder: Path) -> None:
    """Print the table of results or the findings of a study, and where the report is."""
    from metalens.results import (
        by_domain,
        divergence_in_words,
        read_metrics,
        read_results,
        relations_in_words,
        results_table,
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
        sentences = [*divergence_in_words(metrics), *relations_in_words(metrics)]
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)
