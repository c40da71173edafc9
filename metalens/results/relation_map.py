"""Which tasks are alike: a relation matrix in words, groups, a picture and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich import box
from rich.table import Table
from rich.text import Text
from scipy.cluster.hierarchy import fcluster, leaves_list

from metalens.errors import MetaLensError
from metalens.results.figures import BLACK, GRAY, STYLE, WIDTH, branches, cluster_tree
from metalens.results.numbers import number
from metalens.results.sentences import FLAT
from metalens.results.statistics import wrapped

MOST_GROUPS = 12
CLEAR = 0.5  # of a silhouette, below which Kaufman and Rousseeuw call groups weak, possibly artificial
MOST_MEMBERS = 15  # of a group in a terminal
MOST_ROWS = 20  # of the neighbors in a terminal
MOST_NAMES = 60  # in a picture
LONGEST_NAME = 28


@dataclass(frozen=True)
class RelationMap:
    """Relations of n tasks, with their tree and their groups.

    Attributes:
        names: of the tasks, `(n,)`.
        matrix: relations, `(n, n)`, symmetric.
        tree: SciPy's linkage of the distances `1 - m`, average linkage.
        groups: number of the group of every task, `(n,)`, from 0 in the order of the tree.
        silhouette: how clear the groups are, at most 1; nan for a single group.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    tree: np.ndarray
    groups: np.ndarray
    silhouette: float

    @property
    def order(self) -> np.ndarray:
        """The tasks in the order of the tree, `(n,)`."""
        return leaves_list(self.tree)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1

    @property
    def digits(self) -> int:
        """Decimals that tell relations apart: more where they hardly differ."""
        return 2 if self.between.std() > 0.05 else 4

    @property
    def between(self) -> np.ndarray:
        """The relations of every two tasks, `(n (n - 1) / 2,)`."""
        return self.matrix[np.triu_indices(len(self.matrix), 1)]


def relation_map(matrix: np.ndarray, names: Sequence[str], n_groups: int | None = None) -> RelationMap:
    """Cluster tasks by their relations.

    Hierarchical clustering with average linkage of the distances `1 - m`. The number of groups is that of the
    largest silhouette, from 2 to 12; where that is below 0.5, there are no clear groups and all are one.

    Args:
        matrix: relations, `(n, n)`, of at least 3 tasks.
        names: of the tasks.
        n_groups: how many groups, instead of as many as are clear.

    Raises:
        MetaLensError: there are fewer than 3 tasks or relations that are not finite, or as many groups as
            asked for are not possible.

    >>> map = relation_map(np.kron(np.eye(2), np.ones((3, 3))), list("abcdef"))
    >>> map.groups.tolist(), map.silhouette
    ([0, 0, 0, 1, 1, 1], 1.0)
    """
    n = len(matrix)
    if n < 3:
        raise MetaLensError(f"A relation map needs at least 3 tasks, got {n}.")
    if n_groups is not None and not 1 <= n_groups <= n:
        raise MetaLensError(f"{n} tasks can be in 1 to {n} groups, got {n_groups}.")
    if bad := int((~np.isfinite(matrix)).any(1).sum()):
        raise MetaLensError(
            f"The relations of {bad} of {n} tasks are not finite: adaptation diverged on some of them."
        )
    matrix = (matrix + matrix.T) / 2
    distances = (1 - matrix).clip(min=0)
    np.fill_diagonal(distances, 0)
    tree = cluster_tree(matrix)
    if n_groups is None:
        candidates = [_cut(tree, k) for k in range(2, min(MOST_GROUPS, n - 1) + 1)]
        scored = [(_silhouette(distances, groups), groups) for groups in candidates]
        silhouette, groups = max(scored, key=lambda pair: pair[0])
        if not silhouette >= CLEAR:
            silhouette, groups = math.nan, np.zeros(n, dtype=int)
    else:
        groups = _cut(tree, n_groups)
        silhouette = _silhouette(distances, groups)
        silhouette = silhouette if silhouette > -math.inf else math.nan
    return RelationMap(tuple(names), matrix, tree, groups, silhouette)


def _cut(tree: np.ndarray, n_groups: int) -> np.ndarray:
    """Return groups, numbered in the order of the tree."""
    groups = fcluster(tree, n_groups, "maxclust")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups[leaves_list(tree)]))}
    return np.array([numbers[group] for group in groups])


def _silhouette(distances: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean silhouette of the tasks; minus infinity where it is not defined."""
    from sklearn.metrics import silhouette_score  # slow to import

    if not 2 <= len(set(groups)) < len(groups):
        return -math.inf
    return float(silhouette_score(distances, groups, metric="precomputed"))


def relations_as_table(relations: RelationMap) -> pd.DataFrame:
    """Return a row for every task: its name, its group, and its relation to every task, by name.

    >>> table = relations_as_table(relation_map(np.kron(np.eye(2), np.ones((2, 2))), list("abcd")))
    >>> table.columns.tolist(), table.group.tolist()
    (['task', 'group', 'a', 'b', 'c', 'd'], ['A', 'A', 'B', 'B'])
    """
    labels = [group_name(group) for group in relations.groups]
    columns = pd.DataFrame({"task": relations.names, "group": labels})
    return pd.concat([columns, pd.DataFrame(relations.matrix, columns=list(relations.names))], axis=1)


def group_name(number: int) -> str:
    """Return A, B, ... Z, A2, B2 and so on.

    >>> group_name(1), group_name(27)
    ('B', 'B2')
    """
    turn, letter = divmod(number, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn + 1) if turn else "")


def relations_summary(relations: RelationMap) -> list[str | Table]:
    """Return what a terminal of 80 columns shows of a relation map: sentences and tables."""
    between = relations.between
    mean, spread = between.mean(), between.std()
    flat = (
        "That is flat: by these relations all tasks are about equally alike."
        if spread < FLAT * mean
        else "They tell tasks apart."
    )
    shown: list[str | Table] = [
        f"Between tasks, relations are {number(mean, 3)} ± {number(spread, 3)}, from "
        f"{number(between.min(), 3)} to {number(between.max(), 3)}. {flat}"
    ]
    if relations.n_groups == 1:
        return [*shown, "There are no clear groups.", _neighbors(relations)]
    clear = "" if math.isnan(relations.silhouette) else f" (silhouette {number(relations.silhouette, 2)})"
    return [*shown, f"{relations.n_groups} groups{clear}:", _groups(relations), _neighbors(relations)]


def _groups(relations: RelationMap) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
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
    more = f" and {len(names) - MOST_MEMBERS} more" if len(names) > MOST_MEMBERS else ""
    return ", ".join(_short(name, LONGEST_NAME) for name in names[:MOST_MEMBERS]) + more


def _neighbors(relations: RelationMap) -> Table:
    n = len(relations.names)
    rest = f"; the table has all {n}" if n > MOST_ROWS else ""
    table = Table(
        title=f"Nearest tasks{rest}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
        pad_edge=False,
    )  # fmt: skip
    table.add_column("task", no_wrap=True)
    longest = max(map(len, relations.names))
    n_neighbors = min(3 if longest <= 12 else 2, n - 1)
    for place in range(n_neighbors):
        table.add_column("nearest" if place == 0 else "", no_wrap=True)
    width = 76 // (n_neighbors + 1) - 5 - relations.digits
    for task in range(min(n, MOST_ROWS)):
        row = relations.matrix[task].copy()
        row[task] = -math.inf
        nearest = np.argsort(-row, kind="stable")[:n_neighbors]
        relation = {other: number(row[other], relations.digits) for other in nearest}
        cells = [f"{relation[other]} {_short(relations.names[other], width)}" for other in nearest]
        table.add_row(*map(Text, (_short(relations.names[task], width + 5), *cells)))
    return table


@matplotlib.rc_context(STYLE)
def relation_figure(relations: RelationMap, title: str) -> Figure:
    """Return the relation matrix as a heat map in the order of its tree, with the tree beside it.

    The scale starts at 0 (or at -1, if a relation is negative) and ends at 1, so that flat relations look
    flat. Lines divide the groups; tasks have their names where there are at most 60.

    Args:
        relations: what to draw.
        title: what stands above.
    """
    order, n = relations.order, len(relations.names)
    named = n <= MOST_NAMES
    size = max(6.2, 1.4 + 0.145 * n) if named else WIDTH + 1
    layout = ConstrainedLayoutEngine(wspace=0.01, hspace=0.02)
    figure = Figure(figsize=(size + 2.4, size), layout=layout)
    left, axes = figure.subplots(1, 2, width_ratios=(1, 5))
    smallest = 0 if relations.matrix.min() >= 0 else -1
    image = axes.imshow(
        relations.matrix[np.ix_(order, order)], cmap="cividis", vmin=smallest, vmax=1, aspect="auto"
    )
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
        labels = [_short(relations.names[task], LONGEST_NAME) for task in order]
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
