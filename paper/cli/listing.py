"""`python -m paper list`: studies and suites, one line each."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from metalens.cli.listing import show_list
from paper import STUDIES
from paper.suite import SUITES, description_of


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add nothing: the command has no settings."""


def execute(settings: Namespace, words: list[str]) -> None:
    """Print the tables."""
    show_list("Studies", {name: description for name, (_, description) in STUDIES.items()})
    show_list("Suites", {name: description_of(name) for name in SUITES})
