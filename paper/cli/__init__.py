"""The command line of the studies: `python -m paper list`, `run STUDY`, `suite NAME`, `report DIR`."""

from __future__ import annotations

from collections.abc import Sequence

import metalens.cli

COMMANDS = {
    "list": ("paper.cli.listing", "studies, and suites of them"),
    "run": ("paper.cli.run", "run a study and write its report"),
    "suite": ("paper.cli.suite", "run several studies"),
    "report": ("paper.cli.report", "rewrite the figures and report of a study"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit, as `metalens` does."""
    metalens.cli.main(
        arguments, commands=COMMANDS, prog="python -m paper", description="The studies of the paper."
    )
