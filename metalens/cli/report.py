"""`metalens report DIR`: figures and report of a run, study or model, anew; the table of a run as text."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.errors import MetaLensError
from metalens.files import MODEL


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Write figures and report of a run, study or model anew, or the table of a run as text."
    )
    parser.add_argument("folder", type=str, help="folder of a finished run or study, or of a trained model")
    parser.add_argument(
        "--format", type=Literal["html", "md", "latex", "csv"], default="html",
        help="html: the report; or the table of a run in Markdown, LaTeX (with booktabs) or CSV.",
    )  # fmt: skip


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and show the results."""
    from metalens.results import write_report, write_table  # slow to import
    from metalens.studies.report import is_study, write_study_report

    folder = Path(settings.folder)
    if settings.format != "html":
        _refuse_table(folder, is_study(folder), settings.format)
        path = write_table(folder, settings.format)
        Console().print(f"Table: {path.resolve()}", soft_wrap=True, markup=False, highlight=False)
    elif is_model(folder):
        from metalens.results.model_report import write_model_report

        write_model_report(folder)
        show_model(folder)
    else:
        (write_study_report if is_study(folder) else write_report)(folder)
        show(folder)


def _refuse_table(folder: Path, is_study: bool, form: str) -> None:
    if is_study:
        raise MetaLensError(
            f"{folder} is a study, whose table is summary.csv; {form} is for a run, such as those in "
            f"{folder / 'parts'}."
        )
    if is_model(folder):
        raise MetaLensError(f"{folder} is a model, whose table is comparison.csv; {form} is for a run.")


def is_model(folder: Path) -> bool:
    """Tell whether a folder is that of a model that was trained on people's own data."""
    return (folder / MODEL).is_file()


def show_model(folder: Path) -> None:
    """Print the scores of all models in the primary metric, which adapts and why, and where the report is."""
    from metalens.results.model_report import choice_in_words, models_table, read_model_folder

    console, model = Console(), read_model_folder(folder)
    scores = model.comparison
    console.print(models_table(scores[scores["metric"] == scores["metric"].iloc[0]]))
    for sentence in choice_in_words(scores, model.training["chosen"]):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


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
    from metalens.studies.report import is_study, naming_damage, read_study

    console = Console()
    if is_study(folder):
        study, tables, _ = read_study(folder)
        with naming_damage(folder):
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
