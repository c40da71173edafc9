"""`metalens data list | check NAME | fetch NAME`: data sets by name."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from metalens.cli.progress import say
from metalens.data.catalog.datasets import DATASETS
from metalens.errors import MetaLensError

ACTIONS = {
    "list": "data sets by name, and where they are",
    "check": "look at all of a data set: classes, images or tasks of each split",
    "fetch": "download a data set unless it is here, or say how to get it",
}


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the actions to the command's parser."""
    parser.description = "Data sets are looked for in the folder that METALENS_DATA names, and in the cache."
    actions = parser.add_subcommands(dest="action")
    for name, text in ACTIONS.items():
        action = ArgumentParser(exit_on_error=False, description=text[0].upper() + text[1:] + ".")
        if name != "list":
            action.add_argument("name", type=str, help="of a data set, as `metalens data list` calls it")
        if name != "fetch":
            action.add_argument("--folder", type=str, default=None, help="where to look instead")
        actions.add_subcommand(name, action, help=text)


def execute(settings: Namespace, words: list[str]) -> None:
    """Print what was asked for."""
    options = settings[settings.action]
    if settings.action == "list":
        Console(highlight=False, markup=False).print(_table(options.folder))
        return
    if options.name not in DATASETS:
        raise MetaLensError(f"There is no data set {options.name!r}; choose from {', '.join(DATASETS)}.")
    dataset = DATASETS[options.name]
    if settings.action == "fetch":
        say(f"{dataset.name} is in {dataset.find() or dataset.fetch()}.")
        return
    say(f"{dataset.name}: {dataset.description}", wrap=True)
    say(f"{dataset.require(options.folder)}, from {dataset.source}, license: {dataset.license}")
    say(*(f"{name}: {_text(value)}" for name, value in dataset.check(options.folder).items()))


def _table(folder: str | None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", ratio=3)
    table.add_column("where it is", ratio=2, overflow="fold")
    for name, dataset in DATASETS.items():
        table.add_row(name, dataset.description, str(dataset.find(folder) or "not here"))
    return table


def _text(value: Any) -> str:
    """Return a value of the metadata as text.

    >>> _text({"classes": 20, "images": 3000}), _text({"target_mean": 21.296228})
    ('classes 20, images 3,000', 'target mean 21.3')
    """
    match value:
        case Mapping():
            return ", ".join(f"{name.replace('_', ' ')} {_text(inner)}" for name, inner in value.items())
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
    return str(value)
