"""The card of a trained model: a README.md for its folder, from what the folder holds.

Names from a table stand in code spans, which no reader of Markdown interprets.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metalens.data.tables.columns import Columns
from metalens.errors import MetaLensError
from metalens.estimators.choice import Choice
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.scaling import COVERAGE
from metalens.estimators.tables import TableReader
from metalens.estimators.time_limit import left_out_in_words
from metalens.estimators.wording import MIN_TASKS, half_width, weights_in_words
from metalens.metrics import METRICS, meanings
from metalens.statistics.arms import ARM
from metalens.statistics.comparisons import summarize

if TYPE_CHECKING:
    from metalens.estimators.base import MetaEstimator

CARD = "README.md"
REPORTED = (
    "What it predicts",
    "What it was trained on",
    "Intervals",
    "Limits",
)  # the report has the others itself
_MOST_NAMES = 50  # columns and classes that are named
_LONGEST = 80  # characters of a name
_GROUPS = 20  # of held-out tasks, in turn without a say in the width of intervals
_PACKAGES = ("metalens", "torch", "scikit-learn", "pandas", "numpy")


def model_card(estimator: MetaEstimator) -> str:
    """Return the card of a fitted estimator as Markdown.

    It says what the model predicts from what, the numbers of tasks and rows that it was trained on, what
    adapts to new tasks, the scores of all models on held-out tasks with 95 % intervals over these, how many
    targets prediction intervals hold, limits, settings and versions.
    """
    parts = [
        f"# Model card: {type(estimator).__name__}",
        "Written by MetaLens with the model. Nothing in this folder runs when the model is loaded.",
        "## What it predicts",
        *_predicts(estimator),
        "## What it was trained on",
        _trained_on(estimator.data_sizes_),
        "## What adapts to a new task",
        *_adapts(estimator._choices, estimator.n_folds_),
        "## Scores on held-out tasks",
        *_scores(estimator.comparison_),
        "## Intervals",
        _coverage(estimator._choices[estimator.k_shot_]),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in _limits(estimator)),
        "## Settings and versions",
        _table(["setting", "value"], [(code(k), code(v)) for k, v in estimator.get_params().items()]),
        _table(["package", "version"], [(code(name), code(known)) for name, known in _versions().items()]),
    ]
    return "\n\n".join(parts) + "\n"


def code(value: Any) -> str:
    """Return a value in a code span of Markdown, at most 80 characters of it.

    >>> code("dose `rm`"), code("<b>" + 99 * "x")[:12]
    ('`` dose `rm` ``', '`<b>xxxxxxxx')
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split()) or " "
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _predicts(estimator: MetaEstimator) -> list[str]:
    reader = estimator.reader_
    if not isinstance(reader, TableReader):
        size = f"{reader.image_size} × {reader.image_size} pixels"
        return [f"The class of an image of {size}, among those of which a new task brings examples."]
    columns: Columns = reader.columns
    if estimator.kind == "regressor":
        what = f"Numbers, the column {code(columns.target)}"
    elif reader.classes:
        what = f"One of the classes {_named(reader.classes)} of the column {code(columns.target)}"
    else:
        what = f"Classes, the column {code(columns.target)}, which are new in each task"
    task = "" if columns.task is None else f" A task is what {code(columns.task)} names."
    return [
        f"{what}, for rows of a new task of which some rows are known.{task}",
        f"Inputs, {len(reader.input_names)} columns: {_named(reader.input_names)}.",
    ]


def _named(names: Sequence[Any]) -> str:
    further = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(code, names[:_MOST_NAMES])) + further


def _trained_on(sizes: Mapping[str, Mapping[str, int]]) -> str:
    if not sizes:
        return "The numbers of tasks and rows were not saved with this model."
    names = list(dict.fromkeys(name for of_split in sizes.values() for name in of_split))
    parts = {"train": "training", "val": "validation", "test": "comparison"}
    rows = [
        (parts[split], *(f"{n[name]:,}" if name in n else "" for name in names)) for split, n in sizes.items()
    ]
    return _table(["part", *names], rows)


def _adapts(choices: Mapping[int, Choice], n_folds: int) -> list[str]:
    metric = next(iter(choices.values())).metric
    rows = [
        (str(k), weights_in_words(choice.weights, code), _score(choice.score, metric), half_width(choice))
        for k, choice in sorted(choices.items())
    ]  # fmt: skip
    how = "Chosen on the held-out tasks; the score is that of tasks without a say in the choice."
    if n_folds:
        how += f" Each task was held out once, in {n_folds} folds, and what adapts was trained on all."
    return [
        how,
        _table(["support rows", "models", f"mean {metric}", f"half width of {COVERAGE:.0%} intervals"], rows),
    ]


def _scores(comparison: pd.DataFrame) -> list[str]:
    rows = comparison.rename(columns={"model": ARM[0]}).assign(**dict.fromkeys(ARM[1:], ""), seed=0)
    summary = summarize(rows)
    metrics = summary["metric"].unique().tolist()
    table = []
    for model, of_model in summary.groupby(ARM[0], sort=False):
        cells = dict.fromkeys(metrics, "")
        for row in of_model.to_dict("records"):
            mean, low, high = (_score(row[name], row["metric"]) for name in ("mean", "low", "high"))
            cells[row["metric"]] = f"{mean} [{low}, {high}]"
        table.append((code(model), *cells.values()))
    heads = [f"{metric}, {METRICS[metric].better} is better" for metric in metrics]
    n = comparison["task"].nunique()
    tasks = f"{n} task{'s' * (n != 1)}, with 95 % intervals over tasks"
    return [
        f"Means over {tasks}; the meta-learner is the first. {meanings(metrics)}",
        _table(["model", *heads], table),
    ]


def _coverage(choice: Choice) -> str:
    """Return how many targets of held-out tasks intervals hold whose width other tasks decided."""
    if not choice.residuals:
        return "Predictions of classes have probabilities; how right they are, `cross_entropy` says."
    n = len(choice.residuals)
    groups = min(_GROUPS, n)
    inside: list[float] = []
    for number in range(groups):
        others = [of for place, of in enumerate(choice.residuals) if place % groups != number]
        try:
            radius = conformal_radius(others, COVERAGE)
        except MetaLensError:
            return f"There were too few held-out tasks, {n}, to say how many targets they hold."
        inside += [float((np.abs(of) <= radius).mean()) for of in choice.residuals[number::groups]]
    held = f"they held {np.mean(inside):.0%} of the targets, and in the worst task {min(inside):.0%}"
    return (
        f"Intervals of {COVERAGE:.0%} hold a target of a new task with at least this probability, on average "
        f"over tasks, if new tasks are like the held-out ones. Of the {n} held-out tasks, in turn without a "
        f"say in the width, {held}."
    )


def _limits(estimator: MetaEstimator) -> list[str]:
    choice, least = estimator._choices[estimator.k_shot_], min(estimator._choices)
    found = [
        "Scores and intervals hold for tasks that are like the held-out ones; nothing is known of others.",
        "Intervals of scores are over tasks, for this one training; another may give other scores.",
    ]
    if choice.n_tasks < MIN_TASKS:
        found.append(
            f"With only {choice.n_tasks} held-out tasks, another division may give another order of models."
        )
    if choice.residuals and least:
        found.append(f"Intervals need at least {least} support rows.")
    if isinstance(estimator.reader_, TableReader):
        missing = code(estimator.reader_.columns.missing)
        found.append(f"Empty cells: {missing}. Unknown words of an input count as none.")
    if estimator.left_out_:
        found.append(left_out_in_words({code(name): how for name, how in estimator.left_out_.items()}))
    return found


def _score(value: float, metric: str) -> str:
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.1%}" if METRICS[metric].unit == "fraction" else f"{value:.3g}"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
