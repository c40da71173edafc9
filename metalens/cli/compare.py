"""`metalens compare DIR DIR`: the arms of several runs in one table."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.errors import MetaLensError


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Compare the arms of several runs that were tested on the same tasks. An arm that several runs have "
        "is named after its folder."
    )
    # fmt: off
    add = parser.add_argument
    add("folders", type=str, nargs="+", help="folders of finished runs, two or more")
    add("--baseline", type=str | None, default=None,
        help="Arm to compare the others with, by its name in the table; by default the first.")
    add("--format", type=Literal["md", "latex", "csv"] | None, default=None,
        help="Print the table as Markdown, LaTeX (with booktabs) or CSV.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Show the arms of all runs, and how they differ."""
    import numpy as np  # slow to import, as the others

    from metalens.experiments.loading import check_same_tasks
    from metalens.reports import FORMATS, arm_label, read_together, results_table
    from metalens.reports.reading import read_manifest
    from metalens.statistics.arms import ARM

    folders = [Path(folder) for folder in settings.folders]
    if len(folders) < 2:
        raise MetaLensError(f"compare needs two runs or more, got {folders[0]}.")
    check_same_tasks([(folder, read_manifest(folder)) for folder in folders])
    results = read_together(folders)
    if settings.baseline is not None:
        labels = [arm_label(*arm) for arm in results[ARM].itertuples(index=False)]
        if settings.baseline not in labels:
            arms = "; ".join(dict.fromkeys(labels))
            raise MetaLensError(f"No arm is {settings.baseline!r}; the runs have {arms}.")
        results = results.iloc[np.argsort([label != settings.baseline for label in labels], kind="stable")]
    if settings.format is None:
        Console().print(results_table(results))
    else:
        Console().out(FORMATS[settings.format][1](results), end="", highlight=False)
