"""The figures that studies share."""

from __future__ import annotations

from numbers import Real

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from metalens.metrics import METRICS
from metalens.reports.figures import BLACK, COLORS, MARKERS, STYLE, WIDTH, differences
from metalens.statistics.comparisons import wrapped
from paper.comparison import as_arms, is_lower_better, primary

GRID = "#E6E6E6"
OFF_SCALE = 100  # times the median width of all intervals, beyond which one would hide the others
SPREAD = 0.5  # of the points at one setting, as a share of the distance between settings


@matplotlib.rc_context(STYLE)
def against_setting(summary: pd.DataFrame, reference: str, *, logarithmic: bool = False) -> Figure:
    """Return scores against the setting, and paired differences to the reference, a row for each panel.

    Args:
        summary: from `compare`; its first metric is drawn.
        reference: the series that the others are compared with. Where it has a single setting, it is a
            horizontal band.
        logarithmic: whether settings are numbers shown by their ratios; else they are evenly spaced.

    Returns:
        A figure with two columns: scores, and differences. Points without a finite mean, and those far
        off the scale of the others, are crosses at the top.
    """
    rows = primary(summary)
    panels = rows["panel"].unique()
    figure = Figure(figsize=(WIDTH, 0.5 + 2.5 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 2, squeeze=False)
    for (scores, changes), panel in zip(grid, panels, strict=True):
        _panel(scores, changes, rows[rows["panel"] == panel], reference, logarithmic)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)))
    return figure


def forest(summary: pd.DataFrame, reference: str) -> Figure:
    """Return a row for each point with its paired difference to the reference and 95% interval.

    Args:
        summary: from `compare`; its first metric is drawn. A point without an interval, or with one far wider
            than most, is undefined.
        reference: the series that the others are compared with.
    """
    rows = primary(summary)
    others = rows[rows["series"] != reference]
    shown = _on_scale(others["difference_low"].to_numpy(float), others["difference_high"].to_numpy(float))
    names = [
        wrapped(row.series, 34)
        if is_shown
        else f"{wrapped(row.series, 34)}\n(differs by {row.difference:.3g})"
        for row, is_shown in zip(others.itertuples(), shown, strict=True)
    ]
    return differences(
        others.assign(
            **as_arms(names),
            baseline=reference,
            low=others["difference_low"].where(shown),
            high=others["difference_high"].where(shown),
        )
    )


def _panel(scores: Axes, changes: Axes, rows: pd.DataFrame, reference: str, logarithmic: bool) -> None:
    metric = rows["metric"].iloc[0]
    scale = METRICS[metric].scale
    names = list(rows["series"].unique())
    basis = rows[rows["series"] == reference]
    is_band = basis["setting"].nunique() == 1 and len(names) > 1
    settings = list((rows[rows["series"] != reference] if is_band else rows)["setting"].unique())
    settings = sorted(settings) if all(isinstance(each, Real) for each in settings) else settings
    places = {each: float(each) if logarithmic else float(place) for place, each in enumerate(settings)}
    drawn = [name for name in names if not (is_band and name == reference)]
    for number, name in enumerate(names):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        line = rows[rows["series"] == name]
        if name not in drawn:
            row = line.iloc[0]
            scores.axhline(row["mean"], color=color, linewidth=1.4, linestyle="--", label=name)
            scores.axhspan(row["low"], row["high"], color=color, alpha=0.12, linewidth=0)
            continue
        shift = _shift(drawn.index(name), len(drawn))
        x = np.array([places[each] for each in line["setting"]])
        x = x * 1.12 ** (3 * shift) if logarithmic else x + shift
        _with_intervals(scores, x, line, ("mean", "low", "high"), 1, color, marker, name)
        if name != reference:
            _with_intervals(
                changes, x, line, ("difference", "difference_low", "difference_high"), scale, color, marker
            )
    changes.axhline(0, color=BLACK, linewidth=1.0, zorder=1.5)
    for axes in (scores, changes):
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xticks(list(places.values()), [f"{each:g}" if isinstance(each, float) else str(each)
                                                for each in places])  # fmt: skip
        if any(isinstance(each, str) for each in places):
            axes.tick_params(axis="x", rotation=30)
        axes.set_xlabel(rows["panel"].iloc[0])
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    if METRICS[metric].unit == "fraction":
        scores.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    scores.set_ylabel(f"test {metric}")
    changes.set_ylabel(wrapped(f"difference to {reference}{_unit(metric)}", 30))
    worse = "↑ worse" if is_lower_better(metric) else "↓ worse"
    changes.set_title(worse, loc="right", color="#555555")


def _with_intervals(
    axes: Axes,
    x: np.ndarray,
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    scale: float,
    color: str,
    marker: str,
    label: str | None = None,
) -> None:
    center, low, high = (rows[column].to_numpy(float) * scale for column in columns)
    shown = np.isfinite(center) & _on_scale(low, high)
    center, low, high = (np.where(shown, values, np.nan) for values in (center, low, high))
    axes.vlines(x, low, high, color=color, linewidth=1.6)
    axes.plot(x, center, color=color, linewidth=0.9, alpha=0.5)
    is_filled = columns[0] == "mean" or rows["verdict"].isin(("better", "worse")).to_numpy()
    filled = np.broadcast_to(is_filled, x.shape)
    axes.plot(x[filled], center[filled], marker, color=color, markersize=5, label=label)
    axes.plot(x[~filled], center[~filled], marker, color=color, markerfacecolor="white", markersize=5)
    for lost in x[~shown]:
        axes.plot(lost, 0.97, "x", color=color, markersize=6, transform=axes.get_xaxis_transform())


def _on_scale(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which intervals fit into one picture: all but those that are far wider than most.

    >>> _on_scale(np.array([0.0, 1.0, -1e30, np.nan]), np.array([1.0, 2.0, 1e30, np.nan])).tolist()
    [True, True, False, True]
    """
    width = high - low
    known = width[np.isfinite(width)]
    usual = np.median(known) if len(known) else np.inf
    return ~(width > OFF_SCALE * usual)


def _unit(metric: str) -> str:
    return " (percentage points)" if METRICS[metric].unit == "fraction" else ""


def _shift(number: int, n: int) -> float:
    """Return how far the points of one of n series are moved aside, so that intervals do not overlap.

    >>> [_shift(number, 3) for number in range(3)]
    [-0.125, 0.0, 0.125]
    """
    return 0.0 if n == 1 else SPREAD / 2 * (number / (n - 1) - 0.5)
