"""`metalens report DIR`: figures and report of a run, suite, sweep or model; a table as text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.errors import MetaLensError
from metalens.io.files import MODEL, SWEEP


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Rewrite the figures and report of a run, suite, sweep or model, or write a table as text."
    )
    parser.add_argument("folder", type=str, help="folder of a run, suite or sweep, or of a trained model")
    parser.add_argument(
        "--format", type=Literal["html", "md", "latex", "csv"], default="html",
        help="html: the report; or the table of a run or suite in Markdown, LaTeX (with booktabs) or CSV.",
    )  # fmt: skip


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and show the results."""
    from metalens.experiments.suites.report import is_suite, write_suite_report, write_suite_table
    from metalens.reports import write_report, write_table  # slow to import

    folder = Path(settings.folder)
    if is_suite(folder):
        if settings.format == "html":
            write_suite_report(folder)
            show_suite(folder)
        else:
            path = write_suite_table(folder, settings.format)
            Console().print(f"Table: {path.resolve()}", soft_wrap=True, markup=False, highlight=False)
    elif settings.format != "html":
        _refuse_table(folder, settings.format)
        path = write_table(folder, settings.format)
        Console().print(f"Table: {path.resolve()}", soft_wrap=True, markup=False, highlight=False)
    elif is_sweep(folder):
        from metalens.experiments.sweeps.report import write_sweep_report

        write_sweep_report(folder)
        show_sweep(folder)
    elif is_model(folder):
        from metalens.estimators.report import write_model_report

        write_model_report(folder)
        show_model(folder)
    else:
        write_report(folder)
        show(folder)


def _refuse_table(folder: Path, form: str) -> None:
    if is_model(folder):
        raise MetaLensError(f"{folder} is a model, whose table is comparison.csv; {form} is for a run.")
    if is_sweep(folder):
        raise MetaLensError(f"{folder} is a sweep, whose table is trials.csv; {form} is for a run.")


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep, finished or not."""
    return (folder / SWEEP).is_file()


def show_sweep(folder: Path) -> None:
    """Print what came out of a sweep so far, the command that tests it, and where the report is."""
    from metalens.experiments.sweeps.report import outcome_in_words, read_result

    console, result = Console(), read_result(folder)
    for sentence in outcome_in_words(result):
        console.print(sentence, highlight=False, markup=False)
    if result.best is not None:
        by_file = shlex.join(["metalens", "run", result.best.name, "--config", str(folder / "best.yaml")])
        for text in (f"Test it: {result.command}", f"Or by:   {by_file}"):
            console.print(text, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


def is_model(folder: Path) -> bool:
    """Return whether a folder is that of a trained model."""
    return (folder / MODEL).is_file()


def show_model(folder: Path) -> None:
    """Print the scores of all models in the primary metric, which adapts and why, and where the report is."""
    from metalens.estimators.report import choice_in_words, models_table, read_model_folder
    from metalens.metrics import primary_metric
    from metalens.reports.reading import naming_damage

    console, model = Console(), read_model_folder(folder)
    with naming_damage(folder, "train the model"):
        scores = model.comparison
        table = models_table(scores[scores["metric"] == primary_metric(scores["metric"])])
        sentences = choice_in_words(scores, model.training["chosen"])
    console.print(table)
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


def show_suite(folder: Path) -> None:
    """Print the table of entries of a suite, how far it is, and where the report is."""
    from metalens.experiments.suites.report import entries_table, outcome, read_state

    console, state = Console(), read_state(folder)
    console.print(entries_table(folder, state))
    console.print(outcome(state), highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


def show(folder: Path) -> None:
    """Print the table of results, and where the report is."""
    from metalens.metrics import primary_metric
    from metalens.reports import (
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

    console, results = Console(), read_results(folder)
    console.print(results_table(results))
    primary = primary_metric(results["metric"])
    for title, rows in by_domain(results[results["metric"] == primary]).items():
        console.print(results_table(rows, title))
    metrics = read_metrics(folder)
    for sentence in (
        *divergence_in_words(metrics),
        *faults_in_words(metrics),
        *lost_tasks_in_words(summarize(results)),
        *relations_in_words(metrics),
    ):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)
