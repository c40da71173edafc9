"""The table and the figure of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from metalens.statistics.intervals import by_seed_and_task, estimate, holm
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
_PAIRS = [
    ("learned", "none"),
    ("learned", "equal"),
    ("regression", "equal"),
    ("regression", "tuned"),
    ("bound", "tuned"),
]


def table(rows: pd.DataFrame, shots: Mapping[str, int]) -> str:
    """Return mean skills of all arms and paired differences, as Markdown.

    Intervals are those of `metalens.statistics`; a difference is bold if p is below 0.05 after Holm's
    correction for all differences of the table.

    Args:
        rows: `table, seed, task, arm, skill`.
        shots: support rows by table.
    """
    found = []
    for name, of_table in rows.groupby("table", sort=False):
        named = of_table.rename(columns={"task": "source"})
        wide = named.pivot_table(index=["seed", "source"], columns="arm", values="skill")
        for better, reference in _PAIRS:
            change = (wide[better] - wide[reference]).rename("value").reset_index()
            found.append((name, better, reference, *estimate(by_seed_and_task(change))))
    columns = ["table", "arm", "reference", "mean", "low", "high", "p"]
    differences = pd.DataFrame(found, columns=columns)
    differences["p"] = holm(differences["p"])
    titles = [f"{arm} − {reference}" for arm, reference in _PAIRS]
    lines = [f"| table | new tasks | rows known | {' | '.join(ARMS)} | {' | '.join(titles)} |"]
    lines.append(f"|---|--:|--:|{'--:|' * len(ARMS)}{'---|' * len(titles)}")
    for name, of_table in rows.groupby("table", sort=False):
        skills = of_table.groupby("arm")["skill"].mean()
        cells = [name, of_table["task"].nunique(), shots[str(name)], *(f"{skills[arm]:.3f}" for arm in ARMS)]
        for row in differences[differences["table"] == name].itertuples():
            text = f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
            cells.append(f"**{text}**" if row.p < 0.05 else text)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines).replace("-0.", "−0.")


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
