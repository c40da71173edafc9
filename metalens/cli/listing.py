"""`metalens list`: recipes, suites and methods, one line each."""

from collections.abc import Mapping
from inspect import getdoc

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from metalens.experiments import RECIPES
from metalens.experiments.suites import SUITES, description_of
from metalens.specs.calls import LEARNERS, REGULARIZERS, SAMPLERS


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add nothing: the command has no settings."""


def execute(settings: Namespace, words: list[str]) -> None:
    """Print the tables."""
    for title, rows in (
        ("Recipes", {name: recipe.description for name, recipe in RECIPES.items()}),
        ("Suites", {name: description_of(path) for name, path in SUITES.items()}),
        ("Learners", {name: _first_line(cls) for name, cls in LEARNERS.items()}),
        ("Regularizers", {name: _first_line(cls) for name, cls in REGULARIZERS.items()}),
        ("Task samplers", {name: _first_line(cls) for name, cls in SAMPLERS.items()}),
    ):
        show_list(title, rows)


def show_list(title: str, rows: Mapping[str, str]) -> None:
    """Print names with one line on each."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=18)
    table.add_column()
    for name, line in rows.items():
        table.add_row(name, line)
    Console().print(table, "")


def _first_line(method: object) -> str:
    return (getdoc(method) or "").split("\n")[0]
