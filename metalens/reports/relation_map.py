"""A relation map as sentences and tables for a terminal, and as a figure."""

import math
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.table import Table
from rich.text import Text

from metalens.relations.clusters import RelationMap, group_name
from metalens.reports.figures import BLACK, GRAY, STYLE, WIDTH, branches
from metalens.reports.tables import PLAIN
from metalens.statistics.comparisons import wrapped
from metalens.statistics.numbers import number

MAX_MEMBERS = 15  # of a group in a terminal
MAX_ROWS = 20  # of the neighbors in a terminal
MAX_NAMES = 60  # in a figure
MAX_LENGTH = 28  # of a name


def relations_summary(relations: RelationMap) -> list[str | Table]:
    """Return sentences and tables on a relation map for a terminal of 80 columns."""
    between = relations.between
    mean, spread = between.mean(), between.std()
    flat = "They discriminate between tasks."
    if relations.is_flat:
        flat = "That is flat: all tasks are about equally related."
    shown: list[str | Table] = [
        f"Between tasks, relations are {number(mean, 3)} ± {number(spread, 3)}, from "
        f"{number(between.min(), 3)} to {number(between.max(), 3)}. {flat}"
    ]
    if relations.n_groups == 1:
        return [*shown, "There are no clear groups.", _neighbors(relations)]
    clear = "" if math.isnan(relations.silhouette) else f" (silhouette {number(relations.silhouette, 2)})"
    return [*shown, f"{relations.n_groups} groups{clear}:", _groups(relations), _neighbors(relations)]


def _groups(relations: RelationMap) -> Table:
    table = Table(**PLAIN)
    for name in ("group", "tasks", "within", "to others"):
        table.add_column(name, justify="left" if name == "group" else "right", no_wrap=True)
    table.add_column("who", overflow="fold")
    for group in range(relations.n_groups):
        own = relations.groups == group
        inside = relations.matrix[np.ix_(own, own)]
        pairs = inside[np.triu_indices(len(inside), 1)]
        others = relations.matrix[np.ix_(own, ~own)]
        table.add_row(
            group_name(group),
            str(own.sum()),
            number(pairs.mean(), relations.digits) if pairs.size else "",
            number(others.mean(), relations.digits) if others.size else "",
            Text(_members([relations.names[task] for task in relations.order if own[task]])),
        )
    return table


def _members(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_MEMBERS} more" if len(names) > MAX_MEMBERS else ""
    return ", ".join(_short(name, MAX_LENGTH) for name in names[:MAX_MEMBERS]) + more


def _neighbors(relations: RelationMap) -> Table:
    n = len(relations.names)
    rest = f"; the table has all {n}" if n > MAX_ROWS else ""
    table = Table(title=f"Nearest tasks{rest}", title_justify="left", **PLAIN)
    table.add_column("task", no_wrap=True)
    longest = max(map(len, relations.names))
    n_neighbors = min(3 if longest <= 12 else 2, n - 1)
    for place in range(n_neighbors):
        table.add_column("nearest" if place == 0 else "", no_wrap=True)
    width = 76 // (n_neighbors + 1) - 5 - relations.digits
    for task in range(min(n, MAX_ROWS)):
        row = relations.matrix[task].copy()
        row[task] = -math.inf
        nearest = np.argsort(-row, kind="stable")[:n_neighbors]
        relation = {other: number(row[other], relations.digits) for other in nearest}
        cells = [f"{relation[other]} {_short(relations.names[other], width)}" for other in nearest]
        table.add_row(*map(Text, (_short(relations.names[task], width + 5), *cells)))
    return table


@matplotlib.rc_context(STYLE)
def relation_figure(relations: RelationMap, title: str) -> Figure:
    """Draw the relation matrix as a heat map in the order of its tree, with the tree beside it.

    The scale is [0, 1], or [-1, 1] if a relation is negative, so that flat relations look flat. Lines divide
    the groups; at most 60 tasks are named.

    Args:
        relations: to draw.
        title: of the figure.
    """
    order, n = relations.order, len(relations.names)
    named = n <= MAX_NAMES
    size = max(6.2, 1.4 + 0.145 * n) if named else WIDTH + 1
    layout = ConstrainedLayoutEngine(wspace=0.01, hspace=0.02)
    figure = Figure(figsize=(size + 2.4, size), layout=layout)
    left, axes = figure.subplots(1, 2, width_ratios=(1, 5))
    smallest = 0 if relations.matrix.min() >= 0 else -1
    matrix = relations.matrix[np.ix_(order, order)]
    image = axes.imshow(matrix, cmap="cividis", vmin=smallest, vmax=1, aspect="auto")
    ordered = relations.groups[order]
    starts = [place for place in range(1, n) if ordered[place] != ordered[place - 1]]
    for start in starts:
        axes.axhline(start - 0.5, color="white", linewidth=1.2)
        axes.axvline(start - 0.5, color="white", linewidth=1.2)
    if relations.n_groups > 1:
        edges = [0, *starts, n]
        middles = [(a + b - 1) / 2 for a, b in pairwise(edges)]
        axes.set_xticks(middles, [group_name(ordered[int(middle)]) for middle in middles])
        axes.set_xlabel("groups")
    else:
        axes.set(xticks=[], xlabel="no clear groups")
    axes.tick_params(length=0)
    axes.yaxis.tick_right()
    if named:
        labels = [_short(relations.names[task], MAX_LENGTH) for task in order]
        axes.set_yticks(range(n), labels, fontsize=min(8.0, 340 / n))
    else:
        axes.set_yticks([])
    axes.set_title(f"{wrapped(title, 90)}\n{n} tasks in the order of their tree", loc="left")
    axes.spines[:].set_visible(False)
    for places, heights in branches(relations.tree):
        left.plot(heights, places, color=BLACK, linewidth=0.8)
    left.set(ylim=(n - 0.5, -0.5), yticks=[], xlabel="distance 1 − m")
    left.set_xlim(left.get_xlim()[1], 0)
    left.spines["left"].set_visible(False)
    left.tick_params(labelsize=7, color=GRAY)
    figure.colorbar(image, ax=axes, label="relation m", shrink=0.5, pad=0.02, location="right")
    return figure


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
