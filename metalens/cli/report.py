"""`metalens report DIR`: figures and report of a run, suite, sweep or model; a table as text."""

import shlex
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.cli.progress import say
from metalens.errors import MetaLensError
from metalens.io.files import MODEL, SUITE, SWEEP

_TABLES = {MODEL: ("model", "comparison.csv"), SWEEP: ("sweep", "trials.csv")}  # by the file of the folder


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Rewrite the report of a run, suite, sweep or model, or write a table as text."
    parser.add_argument("folder", type=str, help="folder of a run, suite or sweep, or of a trained model")
    parser.add_argument(
        "--format", type=Literal["html", "md", "latex", "csv"], default="html",
        help="html: the report; or the table of a run or suite in Markdown, LaTeX (with booktabs) or CSV.",
    )  # fmt: skip


def execute(settings: Namespace, words: list[str]) -> None:
    """Write the report and show the results."""
    from metalens.experiments.suites.report import write_suite_report, write_suite_table
    from metalens.reports import write_report, write_table  # slow to import

    folder, form = Path(settings.folder), settings.format
    found = next((name for name in (SUITE, SWEEP, MODEL) if (folder / name).is_file()), None)
    if form != "html":
        if found in _TABLES:
            kind, table = _TABLES[found]
            raise MetaLensError(f"{folder} is a {kind}, whose table is {table}; {form} is for a run.")
        path = (write_suite_table if found else write_table)(folder, form)
        say(f"Table: {path.resolve()}")
    elif found == SUITE:
        write_suite_report(folder)
        show_suite(folder)
    elif found == SWEEP:
        from metalens.experiments.sweeps.report import write_sweep_report

        write_sweep_report(folder)
        show_sweep(folder)
    elif found == MODEL:
        from metalens.estimators.report import write_model_report

        write_model_report(folder)
        show_model(folder)
    else:
        write_report(folder)
        show(folder)


def _say_report(folder: Path) -> None:
    say(f"Report: {(folder / 'report.html').resolve()}")


def show_sweep(folder: Path) -> None:
    """Print the outcome of a sweep so far, the command that tests it, and the path of the report."""
    from metalens.experiments.sweeps.report import outcome_in_words, read_result

    result = read_result(folder)
    say(*outcome_in_words(result), wrap=True)
    if result.best is not None:
        by_file = shlex.join(["metalens", "run", result.best.name, "--config", str(folder / "best.yaml")])
        say(f"Test it: {result.command}", f"Or by:   {by_file}")
    _say_report(folder)


def show_model(folder: Path) -> None:
    """Print the scores of all models in the primary metric, the chosen one, and the path of the report."""
    from metalens.estimators.report import choice_in_words, models_table, read_model_folder
    from metalens.reports.reading import naming_damage

    model = read_model_folder(folder)
    with naming_damage(folder, "train the model"):
        scores = model.comparison
        choice = model.choices[model.training["k_shot"]]
        table = models_table(scores[scores["metric"] == choice.metric])
        sentences = choice_in_words(choice, scores, model.n_folds)
    Console().print(table)
    say(*sentences, wrap=True)
    _say_report(folder)


def show_suite(folder: Path) -> None:
    """Print the entries of a suite, its progress, and the path of the report."""
    from metalens.experiments.suites.report import entries_table, outcome, read_state

    state = read_state(folder)
    Console().print(entries_table(folder, state))
    say(outcome(state), wrap=True)
    _say_report(folder)


def show(folder: Path) -> None:
    """Print the results of a run, and the path of the report."""
    from metalens import reports
    from metalens.metrics import primary_metric

    console, results, metrics = Console(), reports.read_results(folder), reports.read_metrics(folder)
    console.print(reports.results_table(results))
    primary = primary_metric(results["metric"])
    for title, rows in reports.by_domain(results[results["metric"] == primary]).items():
        console.print(reports.results_table(rows, title))
    say(
        *reports.divergence_in_words(metrics),
        *reports.faults_in_words(metrics),
        *reports.lost_tasks_in_words(reports.summarize(results)),
        *reports.relations_in_words(metrics),
        wrap=True,
    )
    _say_report(folder)
