"""`metalens list`: recipes, suites and methods, one line each."""

from collections.abc import Mapping
from inspect import getdoc

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from metalens.data import TaskDistribution
from metalens.experiments import RECIPES
from metalens.experiments.suites import SUITES, description_of
from metalens.specs.calls import LEARNERS, REGULARIZERS, SAMPLERS
from metalens.specs.outside import Catalogue


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add nothing: the command has no settings."""


def execute(settings: Namespace, words: list[str]) -> None:
    """Print the tables."""
    show_list("Recipes", {name: recipe.description for name, recipe in RECIPES.everything().items()})
    show_list("Suites", {name: description_of(path) for name, path in SUITES.items()})
    for title, catalogue in (
        ("Learners", LEARNERS),
        ("Regularizers", REGULARIZERS),
        ("Task samplers", SAMPLERS),
        ("Task distributions of plug-ins", Catalogue("task distribution", TaskDistribution, {})),
    ):
        if methods := catalogue.everything():
            show_list(title, {name: _first_line(cls) for name, cls in methods.items()})


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
