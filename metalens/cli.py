"""The command line: `metalens list`, `metalens run RECIPE`, `metalens report DIR`."""

from __future__ import annotations

import shlex
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import fields, replace
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from metalens.benchmarks import RECIPES, Recipe
from metalens.benchmarks.calls import LEARNERS, NETWORKS, REGULARIZERS
from metalens.benchmarks.experiment import Arm, Watcher, arms_of, run
from metalens.errors import MetaLensError
from metalens.execution import Execution
from metalens.files import new_folder

# Fields of recipes that take several values: `--seeds 0 1 2`.
LISTS: dict[str, tuple[type, str]] = {
    "learner": (str, "Learners to compare, for example MAML 'MAML(inner_lr=0.1, inner_steps=5)'."),
    "regularizers": (str, "Arms to compare, for example none TRLearner 'TRLearner(weight=0.3)'."),
    "seeds": (int, "One replication each."),
    "hidden": (int, "Sizes of the hidden layers."),
}
FIXED: set[str | int] = {"name", "description"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; a user's mistake ends in one sentence and status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _note
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended cleans up like Ctrl-C
    try:
        _dispatch(words)
    except ArgumentError as error:
        _fail(" ".join(str(error).split()), 2)
    except MetaLensError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror}.", 2)
    except UnicodeDecodeError as error:
        _fail(f"a file is not UTF-8 text: {error}.", 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        _fail("the sizes asked for do not fit into memory.", 2)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written.", 130)


def _note(message: Warning | str, *_: object) -> None:
    print(f"metalens: note: {message}", file=sys.stderr)


def _fail(message: str, status: int) -> None:
    print(f"metalens: {message}", file=sys.stderr)
    raise SystemExit(status)


def _dispatch(words: list[str]) -> None:
    _check_config(words)
    settings = _parser().parse_args(words or ["--help"])
    command = settings.command
    if command == "list":
        _list()
    elif command == "run":
        _run(RECIPES[settings.run.recipe], settings.run[settings.run.recipe], words)
    else:
        from metalens.results import write_report

        folder = Path(settings.report.folder)
        write_report(folder)
        _show(folder)


def _check_config(words: list[str]) -> None:
    """Say what is wrong with a configuration file, in clearer words than the parser's."""
    if words[:1] != ["run"] or len(words) < 2 or words[1] not in RECIPES:
        return
    recipe = RECIPES[words[1]]
    known = {field.name for field in fields(recipe)} - FIXED | {"out", "overwrite"}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option != "--config":
            continue
        path = Path(value or following)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise MetaLensError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(content, dict):
            raise MetaLensError(f"{path} must hold settings, one `name: value` a line.")
        if unknown := [str(name) for name in content if name not in known]:
            raise MetaLensError(
                f"{path} has settings that {recipe.name} does not know: {', '.join(unknown)}; "
                "--print_config shows all."
            )
        if single := [name for name in LISTS if not isinstance(content.get(name, []), list)]:
            raise MetaLensError(f"{path}: {', '.join(single)} must be a list, such as [a, b].")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="metalens",
        description="Meta-learning with task-relation regularization.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand(
        "list", ArgumentParser(exit_on_error=False), help="recipes, learners, regularizers, networks"
    )
    runner = ArgumentParser(exit_on_error=False, description="Run a recipe; `metalens list` describes them.")
    commands.add_subcommand("run", runner, help="train, test, compare, report")
    report = ArgumentParser(exit_on_error=False, description="Write a run's figures and report anew.")
    report.add_argument("folder", type=str, help="folder of a finished run")
    commands.add_subcommand("report", report, help="write a run's figures and report anew")
    recipes = runner.add_subcommands(dest="recipe")
    for recipe in RECIPES.values():
        recipes.add_subcommand(recipe.name, _recipe_parser(recipe), help=recipe.description)
    return parser


def _recipe_parser(recipe: Recipe) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, description=recipe.description)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_argument(
        "--out", type=str, default=f"runs/{recipe.name}", help="Folder for everything the run writes."
    )
    parser.add_argument(
        "--overwrite", action=ActionYesNo, default=False, help="Replace the run in the folder."
    )
    names = {field.name for field in fields(recipe)}
    for name, (kind, text) in LISTS.items():
        if name in names:
            parser.add_argument(f"--{name}", type=kind, nargs="+", help=text)
    parser.add_class_arguments(type(recipe), skip=FIXED | set(LISTS))
    parser.set_defaults({name: getattr(recipe, name) for name in names - FIXED})
    return parser


def _list() -> None:
    console = Console()
    for title, rows in (
        ("Recipes", {name: recipe.description for name, recipe in RECIPES.items()}),
        ("Learners", {name: _first_line(cls) for name, cls in LEARNERS.items()}),
        ("Regularizers", {name: _first_line(cls) for name, cls in REGULARIZERS.items()}),
        ("Networks", {name: _first_line(build) for name, build in NETWORKS.items()}),
    ):
        table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", no_wrap=True, min_width=18)
        table.add_column()
        for name, line in rows.items():
            table.add_row(name, line)
        console.print(table, "")


def _first_line(method: object) -> str:
    return (getdoc(method) or "").split("\n")[0]


def _run(recipe: Recipe, settings: Namespace, words: list[str]) -> None:
    values: dict[str, Any] = settings.as_dict()
    chosen = replace(
        recipe, **{field.name: values[field.name] for field in fields(recipe) if field.name not in FIXED}
    )
    from metalens.results import write_report  # slow to import

    out = Path(settings.out or f"runs/{recipe.name}")
    console = Console()
    with new_folder(out, overwrite=settings.overwrite) as folder, _progress(console) as progress:
        watcher = LiveProgress(progress, len(arms_of(chosen)) * len(chosen.seeds))
        run(chosen, folder, command=shlex.join(["metalens", *words]), watcher=watcher)
        write_report(folder)
    _show(out)


def _show(folder: Path) -> None:
    from metalens.results import read_results, results_table

    console = Console()
    console.print(results_table(read_results(folder)))
    console.print(f"Report: {(folder / 'report.html').resolve()}", soft_wrap=True, markup=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class LiveProgress(Watcher):
    """Shows the whole experiment and the current training, with its loss and speed."""

    def __init__(self, progress: Progress, n_cells: int) -> None:
        self.progress = progress
        self.cells = progress.add_task("all runs", total=n_cells, status="")
        self.steps = progress.add_task("training", total=1, status="")

    def start_cell(self, arm: Arm, seed: int, steps: int) -> None:
        self.progress.reset(self.steps, total=steps, description=f"{arm}, seed {seed}", status="")

    def execution(self, execution: Execution) -> None:
        if execution.seconds:
            self.progress.console.print(f"  steps by {execution}", highlight=False, markup=False)

    def step(self, step: int, loss: float) -> None:
        speed = self.progress.tasks[1].speed
        status = f"loss {loss:.4f}" + (f"  {speed:.0f} steps/s" if speed else "")
        self.progress.update(self.steps, completed=step, status=status)

    def end_cell(self, arm: Arm, seed: int, scores: dict[str, float]) -> None:
        text = ", ".join(f"{metric} {score:.4f}" for metric, score in scores.items())
        self.progress.console.print(f"{arm}, seed {seed}: test {text}", highlight=False, markup=False)
        self.progress.advance(self.cells)
