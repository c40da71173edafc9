"""`metalens evaluate`: score a trained model on further tasks, beside baselines."""

import re
from pathlib import Path

from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalens.cli.predict import check_out
from metalens.cli.progress import say
from metalens.io.files import atomic_path

_BEFORE_CAPITAL = re.compile("(?<=[a-z])(?=[A-Z])")  # where a name may be divided: Gaussian, Process


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = "Score all models on new data; they adapt to some rows of a task and predict others."
    # fmt: off
    add = parser.add_argument
    add("--model", type=str, required=True, help="Folder that `metalens train` has written.")
    add("--data", type=str, required=True, help="Of the same kind as in training.")
    add("--k_shot", type=int | None, default=None, help="Support rows of a task, or of each new class.")
    add("--n_query", type=int | None, default=None, help="The same for query rows.")
    add("--out", type=str | None, default=None, help="Table (CSV) of all scores to write, by model and task.")
    add("--overwrite", action=ActionYesNo, default=False, help="Replace an existing table.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Evaluate, show the results, and write them if `--out` is given."""
    if settings.out is not None:
        check_out(settings.out, overwrite=settings.overwrite)
    from metalens.estimators import load_model  # slow to import
    from metalens.estimators.report import best_and_worst, models_table

    model = load_model(settings.model)
    scores = model.evaluate(settings.data, k_shot=settings.k_shot, n_query=settings.n_query)
    names, rows, note = best_and_worst(scores, model.chosen_)
    title = f"Best and worst tasks of {model.chosen_}"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("task", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in names:
        table.add_column(_BEFORE_CAPITAL.sub("\n", name), justify="right", no_wrap=True)
    for name, cells in rows:
        table.add_row(Text(name), *cells)
    Console().print(models_table(scores))
    Console(highlight=False, markup=False).print("", table)
    say(note, f"New tasks are predicted by {model.chosen_}.", wrap=True)
    if settings.out is not None:
        with atomic_path(Path(settings.out)) as path:
            scores.to_csv(path, index=False)
        say(f"Scores: {Path(settings.out).resolve()}")
