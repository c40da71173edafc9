"""The tables and the figure of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from metalens.statistics.intervals import estimate, holm
from tools.relations.cell import ARMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = {
    "none": ("x", "no relations: each task alone"),
    "equal": ("s", "equal relations: a shared mean"),
    "learned": ("o", "learned covariance"),
    "regression": ("D", "weights by regression"),
    "bound": ("o", "bound: weights from the answers"),
}
PAIRS = (
    ("learned", "none"),
    ("learned", "equal"),
    ("regression", "none"),
    ("regression", "equal"),
    ("regression", "tuned"),
    ("bound", "tuned"),
)


def tables(
    rows: pd.DataFrame,
    shots: Mapping[str, int],
    arms: Sequence[str] = ARMS,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> str:
    """Return mean skills of all arms, and paired differences, as two tables of Markdown.

    A task's value is the mean over its seeds, and intervals are over tasks; a difference is bold if p is
    below 0.05 after Holm's correction for all differences of the page.

    Args:
        rows: `table, seed, task, arm, skill`.
        shots: support rows by table.
        arms: in their order.
        pairs: arms whose differences are shown, the second one subtracted.
    """
    of_tasks = rows.groupby(["table", "task", "arm"], sort=False)["skill"].mean().unstack("arm")
    found = [
        (name, f"{better} − {reference}", *estimate((wide[better] - wide[reference]).to_numpy()[None]))
        for name, wide in of_tasks.groupby("table", sort=False)
        for better, reference in pairs
    ]
    differences = pd.DataFrame(found, columns=["table", "pair", "mean", "low", "high", "p"])
    differences["p"] = holm(differences["p"])
    means = of_tasks.groupby("table", sort=False).mean()[list(arms)].map("{:.3f}".format)
    n_tasks = of_tasks.groupby("table", sort=False).size()
    means.insert(0, "rows", [str(shots[str(name)]) for name in means.index])
    means.insert(0, "tasks", n_tasks.map(str))
    texts = differences.assign(text=[_text(row) for row in differences.itertuples()])
    wide = texts.pivot(index="table", columns="pair", values="text")
    return f"{_markdown(means)}\n\n{_markdown(wide.loc[means.index, texts['pair'].unique()])}"


def _text(row: Any) -> str:
    text = f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    return f"**{text}**" if row.p < 0.05 else text


def _markdown(frame: pd.DataFrame) -> str:
    lines = [["table", *map(str, frame.columns)], ["---", *["--:"] * len(frame.columns)]]
    lines += [[str(name), *row] for name, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]
    return re.sub(r"-(?=\d)", "−", "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def figure(rows: pd.DataFrame) -> Figure:
    """Return mean skills by table: without relations, with equal ones, with learned ones, and the bound."""
    from matplotlib.figure import Figure  # slow to import

    skills = rows.groupby(["table", "arm"], sort=False)["skill"].mean().unstack("arm")
    skills = skills.loc[(skills["bound"] - skills["tuned"]).sort_values().index]
    figure = Figure(figsize=(7.5, 0.38 * len(skills) + 1.2), layout="constrained")
    axes, places = figure.add_subplot(), range(len(skills))
    axes.hlines(places, skills["tuned"], skills["bound"], color="0.7", linestyle=":", zorder=1)
    for arm, (marker, title) in _MARKS.items():
        style = {"facecolors": "none", "edgecolors": "0.4"} if arm == "bound" else {}
        axes.scatter(skills[arm], places, marker=marker, label=title, s=42, zorder=2, **style)
    axes.set_yticks(places, skills.index)
    axes.set_xlabel("share of the variance that is explained, mean over new tasks")
    axes.axvline(0, color="0.85", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
