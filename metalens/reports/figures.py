"""Figures of a finished run, drawn from its tables and legible without colors."""

import math
from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from scipy.cluster.hierarchy import dendrogram, leaves_list

from metalens.errors import MetaLensError
from metalens.metrics import METRICS, primary_metric
from metalens.relations.clusters import cluster_tree
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.comparisons import wrapped
from metalens.statistics.numbers import unit
from metalens.training.nonfinite import FAULTS

WIDTH = 7.4  # inches, the width of the report's column
N_TASKS = 4  # rows of the small multiples
MIN_TREE_HEIGHT = 0.1  # of the panel of a tree, in units of 1 - m

# Okabe and Ito's palette without its yellow, which is too pale for lines.
BLUE, ORANGE, GRAY, BLACK = "#0072B2", "#E69F00", "#8C8C8C", "#222222"
COLORS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#56B4E9", ORANGE, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))

STYLE = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so figures are the same on every computer
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.color": BLACK,
    "text.parse_math": False,  # a $ in a name is a $
    "figure.facecolor": "white",
}


@matplotlib.rc_context(STYLE)
def learning_curves(metrics: pd.DataFrame) -> Figure:
    """Draw the learning curve of every arm: mean over seeds, with a band from lowest to highest seed.

    Losses that span a factor of 4 are on a logarithmic axis.

    Args:
        metrics: rows `learner, regularizers, sampler, seed, step, split, metric, value`; the first metric of
            the split "val" or, without validation, of "train" is drawn.
    """
    validated = metrics[metrics["split"] == "val"]
    terms = metrics[~metrics["metric"].isin(FAULTS.values())]
    rows = terms if validated.empty else validated
    metric = rows["metric"].iloc[0]
    rows = rows[rows["metric"] == metric]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    drawn = []
    for number, (arm, group) in enumerate(rows.groupby(ARM, sort=False)):
        color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
        values = group["value"].where(np.isfinite(group["value"]))  # a diverged seed is a gap
        band = values.groupby(group["step"]).agg(["mean", "min", "max"])
        axes.plot(band.index, band["mean"], color=color, linestyle=line, linewidth=1.6, label=arm_label(*arm))
        axes.fill_between(band.index, band["min"], band["max"], color=color, alpha=0.15, linewidth=0)
        drawn.append(band["mean"])
    scale_scores(axes.yaxis, pd.concat(drawn), metric)
    axes.set(xlabel="outer step", ylabel=f"{'training' if validated.empty else 'validation'} {metric}")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y")
    axes.margins(x=0.01)
    figure.legend(loc="outside upper left", ncols=2 if len(drawn) > 1 else 1)
    return figure


def scale_scores(axis: Axis, scores: pd.Series, metric: str, span: float = 4) -> None:
    """Show fractions in percent, and positive scores that span more than a factor on a logarithmic axis."""
    if metric in METRICS and METRICS[metric].unit == "fraction":  # training curves show terms of the loss
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif scores.min() > 0 and scores.max() > span * scores.min():
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def label_rows(axes: Axes, labels: list[str]) -> None:
    """Name the rows of a panel, the first one at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


@matplotlib.rc_context(STYLE)
def differences(paired: pd.DataFrame) -> Figure:
    """Draw a forest plot for each metric: a row per arm with its paired difference to the baseline.

    Intervals are of 95%; filled markers are significant, hollow ones are not.

    Args:
        paired: from `paired_differences`, not empty.
    """
    metrics = paired["metric"].unique()
    height = 0.85 + 0.34 * len(paired[ARM].drop_duplicates())
    figure = Figure(figsize=(WIDTH, height * len(metrics)), layout="constrained")
    for axes, metric in zip(figure.subplots(len(metrics), squeeze=False)[:, 0], metrics, strict=True):
        _forest(axes, paired[paired["metric"] == metric], metric)
    return figure


@matplotlib.rc_context(STYLE)
def tradeoff(scores: pd.DataFrame, seconds: pd.DataFrame) -> Figure:
    """Draw scores against training time, both with 95% intervals.

    Args:
        scores: `metric, mean, low, high`, a row per arm, indexed by its label; all of one metric.
        seconds: `mean, low, high` of the training time of one seed, by the same labels.
    """
    figure = Figure(figsize=(WIDTH, max(4.0, 0.4 + 0.24 * len(scores))), layout="constrained")
    axes = figure.subplots()
    metric = primary_metric(scores["metric"])
    scale = METRICS[metric].scale
    for number, row in enumerate(scores.itertuples()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number // len(COLORS) % len(MARKERS)]
        time = seconds.loc[row.Index]
        axes.plot([max(time["low"], 0.0), time["high"]], [row.mean * scale] * 2, color=color, linewidth=1.4)
        axes.plot([time["mean"]] * 2, [row.low * scale, row.high * scale], color=color, linewidth=1.4)
        label = wrapped(row.Index, 30)
        axes.plot(time["mean"], row.mean * scale, marker, color=color, markersize=6, label=label)
    axes.set(xlabel="training time of one seed, s", ylabel=f"test {metric}{unit(metric, ' in %')}")
    corner = "upper left" if METRICS[metric].better == "higher" else "lower left"
    axes.set_title(f"better and faster: {corner}", loc="right", color="#555555")
    axes.grid()
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper")
    return figure


@matplotlib.rc_context(STYLE)
def per_task(results: pd.DataFrame) -> Figure:
    """Draw the scores of single tasks in the primary metric: a row of dots per arm, with their median.

    Losses that span a factor of 10 are on a logarithmic axis.

    Args:
        results: rows `learner, regularizers, sampler, seed, task, metric, value`, one per test task.
    """
    metric = primary_metric(results["metric"])
    rows = results[(results["metric"] == metric) & np.isfinite(results["value"])]
    arms = [arm_label(*arm) for arm in results[ARM].drop_duplicates().itertuples(index=False, name=None)]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.5 * len(arms)), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)  # only spreads the dots
    for arm, group in rows.groupby(ARM, sort=False):
        place, values = arms.index(arm_label(*arm)), group["value"].to_numpy()
        color = COLORS[place % len(COLORS)]
        heights = place + rng.uniform(-0.25, 0.25, len(values))
        axes.plot(values, heights, "o", color=color, markersize=3.5, alpha=0.5, markeredgewidth=0)
        axes.plot([np.median(values)] * 2, [place - 0.36, place + 0.36], color=BLACK, linewidth=1.6)
    scale_scores(axes.xaxis, rows["value"], metric, span=10)
    axes.set(xlabel=f"{metric} of a task, {METRICS[metric].better} is better")
    label_rows(axes, arms)
    return figure


@matplotlib.rc_context(STYLE)
def predictions(curves: pd.DataFrame) -> Figure:
    """Draw predictions before and after adaptation to one-dimensional tasks: rows are tasks, columns arms.

    Args:
        curves: rows `learner, regularizers, sampler, seed, task, part, x, y, before, after`; the part
            "query" is drawn as lines, "support" as points; at most four tasks.
    """
    arms = list(curves[ARM].drop_duplicates().itertuples(index=False, name=None))
    tasks = curves["task"].unique()[:N_TASKS]
    figure = Figure(figsize=(WIDTH, 0.75 + 1.45 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), len(arms), sharex=True, sharey="row", squeeze=False)
    by_panel = dict(tuple(curves.groupby(["task", *ARM])))
    for row, task in zip(grid, tasks, strict=True):
        row[0].set_ylabel(f"task {task}")
        for axes, arm in zip(row, arms, strict=True):
            panel = by_panel.get((task, *arm))
            if panel is None:
                raise MetaLensError(
                    f"curves.csv must have the same tasks for every arm, got no task {task} for "
                    f"{arm_label(*arm)}; run it again."
                )
            _adaptation(axes, panel)
        row[0].set_ylim(_limits(curves[curves["task"] == task]))
    for axes, arm in zip(grid[0], arms, strict=True):
        axes.set_title(wrapped(arm_label(*arm), max(12, 86 // len(arms))))
    for axes in grid[-1]:
        axes.set_xlabel("x")
    figure.align_ylabels(grid[:, 0])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


@matplotlib.rc_context(STYLE)
def relations(relations: pd.DataFrame) -> Figure:
    """Draw the relation matrices of arms as heat maps below their trees.

    The scale is [0, 1], or [-1, 1] if a relation is negative, so that a flat matrix looks flat; trees have a
    common scale as well. Each panel orders tasks by average-linkage clustering of `1 - m_ij`.

    Args:
        relations: rows `learner, regularizers, sampler, seed, row, column, relation`, drawn for the first
            seed.

    Raises:
        MetaLensError: the rows of an arm are not a square matrix.
    """
    first = relations[relations["seed"] == relations["seed"].iloc[0]]
    labeled = ((arm_label(*arm), rows) for arm, rows in first.groupby(ARM, sort=False))
    matrices = {label: _matrix(label, rows) for label, rows in labeled}
    n_columns = min(3, len(matrices))
    n_rows = math.ceil(len(matrices) / n_columns)
    layout = ConstrainedLayoutEngine(wspace=0.08, hspace=0.05)
    figure = Figure(figsize=(1.0 + 2.13 * n_columns, 3.3 * n_rows), layout=layout)
    grid = figure.subplots(2 * n_rows, n_columns, squeeze=False, height_ratios=[1, 3] * n_rows)
    trees, panels = grid[::2].ravel(), grid[1::2].ravel()
    smallest = 0 if first["relation"].min() >= 0 else -1
    colors = ScalarMappable(Normalize(smallest, 1), cmap="cividis")
    linkages = [cluster_tree(matrix) for matrix in matrices.values()]
    top = max(MIN_TREE_HEIGHT, *(1.05 * tree[-1, 2] for tree in linkages))
    for above, axes, tree, (label, matrix) in zip(trees, panels, linkages, matrices.items(), strict=False):
        order = leaves_list(tree)
        axes.imshow(matrix[np.ix_(order, order)], cmap=colors.cmap, norm=colors.norm, aspect="auto")
        for places, heights in branches(tree):
            above.plot(places, heights, color=BLACK, linewidth=0.8)
        above.set(xlim=(-0.5, len(matrix) - 0.5), ylim=(0, top), xticks=[], yticks=[])
        above.spines[:].set_visible(False)
        others = matrix[~np.eye(len(matrix), dtype=bool)]
        span = f"off-diagonal {others.min():.3f} to {others.max():.3f}".replace("-0", "−0")
        above.set_title(f"{wrapped(label, max(12, 86 // 3))}\n{span}")
        axes.set(xticks=[], yticks=[], xlabel="test tasks, in cluster order")
    for axes in (*trees[len(matrices) :], *panels[len(matrices) :]):
        axes.remove()
    figure.colorbar(colors, ax=list(panels[: len(matrices)]), label="relation m", shrink=0.8)
    return figure


def _forest(axes: Axes, paired: pd.DataFrame, metric: str) -> None:
    scale, points = METRICS[metric].scale, unit(metric, " (percentage points)")
    places = range(len(paired))
    for place, row in zip(places, paired.itertuples(), strict=True):
        if math.isnan(row.low):
            where = axes.get_yaxis_transform()
            axes.text(0.02, place, "undefined", transform=where, va="center", style="italic")
            continue
        axes.plot([row.low * scale, row.high * scale], [place, place], color=BLUE, linewidth=1.8)
        face = BLUE if row.verdict in ("better", "worse") else "white"
        axes.plot(row.difference * scale, place, "o", color=BLUE, markerfacecolor=face, markersize=6.5)
    axes.axvline(0, color=BLACK, linewidth=1.0, zorder=1.5)
    left, right = ("worse", "better") if METRICS[metric].better == "higher" else ("better", "worse")
    axes.set_title(f"← {left}", loc="left", color="#555555")
    axes.set_title(f"{right} →", loc="right", color="#555555")
    axes.set_xlabel(f"difference in {metric}{points} from {paired['baseline'].iloc[0]}")
    label_rows(axes, [arm_label(*arm) for arm in paired[ARM].itertuples(index=False)])


def _adaptation(axes: Axes, panel: pd.DataFrame) -> None:
    query = panel[panel["part"] == "query"].sort_values("x")
    support = panel[panel["part"] == "support"]
    axes.plot(query["x"], query["y"], color=BLACK, linewidth=1.0, label="true")
    before = {"linewidth": 1.2, "linestyle": "--", "label": "before adaptation"}
    axes.plot(query["x"], query["before"], color=GRAY, **before)
    axes.plot(query["x"], query["after"], color=BLUE, linewidth=1.8, label="after adaptation")
    points = {"markeredgecolor": BLACK, "markersize": 4.5, "label": "support"}
    axes.plot(support["x"], support["y"], "o", color=ORANGE, **points)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Return limits that show all curves up to one range of y beyond it, as predictions may diverge."""
    low, high = rows["y"].min(), rows["y"].max()
    span = max(high - low, 1e-6)
    drawn = rows[["y", "before", "after"]].to_numpy()
    drawn = drawn[np.isfinite(drawn)]
    bottom, top = max(drawn.min(), low - span), min(drawn.max(), high + span)
    return bottom - 0.06 * span, top + 0.06 * span


def _matrix(label: str, rows: pd.DataFrame) -> np.ndarray:
    matrix = rows.pivot_table(index="row", columns="column", values="relation", aggfunc="first", dropna=False)
    if len(rows) != matrix.size or list(matrix.index) != list(matrix.columns) or len(matrix) < 2:
        raise MetaLensError(
            f"relations.csv must have one relation for every pair of tasks of {label}, got {len(rows)} rows "
            f"for {matrix.shape[0]} by {matrix.shape[1]} tasks; run it again."
        )
    return matrix.to_numpy()


def branches(tree: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the lines of a tree: positions, the leaves being 0, 1, ... in order, and heights."""
    lines = dendrogram(tree, no_plot=True)
    for places, heights in zip(lines["icoord"], lines["dcoord"], strict=True):
        yield (np.array(places) - 5) / 10, np.array(heights)
