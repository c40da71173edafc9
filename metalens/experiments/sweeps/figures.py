"""Figures of a sweep, in the style of those of a run."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from metalens.experiments.sweeps.space import setting_text
from metalens.metrics import METRICS
from metalens.reports.figures import BLACK, BLUE, GRAY, ORANGE, STYLE, WIDTH, scale_scores
from metalens.statistics.comparisons import wrapped

N_COLUMNS = 3
RED = "#D55E00"
STATES = {"complete": ("o", BLUE, BLUE), "pruned": ("o", GRAY, "white"), "diverged": ("X", RED, RED)}


@matplotlib.rc_context(STYLE)
def history(trials: pd.DataFrame, metric: str) -> Figure:
    """Plot the score of every trial by number, and the best so far.

    Args:
        trials: rows `trial, state, score`; a diverged trial may have no score.
        metric: of the scores.
    """
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    _dots(axes, trials["trial"], trials, metric)
    complete = trials[trials["state"] == "complete"]
    best = complete["score"].cummax() if METRICS[metric].better == "higher" else complete["score"].cummin()
    line = {"color": BLACK, "linewidth": 1.2, "label": "best so far", "zorder": 1}
    axes.step(complete["trial"], best, where="post", **line)
    axes.set(xlabel="trial", ylabel=f"validation {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=4)
    return figure


@matplotlib.rc_context(STYLE)
def importances(shares: Mapping[str, float]) -> Figure:
    """Plot the importance of every setting, a share of 1, as a bar."""
    ordered = pd.Series(shares).sort_values(kind="stable")
    figure = Figure(figsize=(WIDTH, 0.7 + 0.34 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([wrapped(name, 30) for name in ordered.index], ordered, color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=3)
    axes.set(xlabel="share of importance", xlim=(0, 1.08))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def slices(trials: pd.DataFrame, metric: str, space: Mapping[str, Any]) -> Figure:
    """Plot the scores against each setting, a panel for each.

    Args:
        trials: rows `trial, state, score` and the settings.
        metric: of the scores.
        space: the settings with their values: a range `{"low": ..., "high": ..., "log": ...}`, or a list.
    """
    n_columns = min(N_COLUMNS, len(space))
    n_rows = math.ceil(len(space) / n_columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.5 * n_rows), layout=ConstrainedLayoutEngine(wspace=0.06))
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    complete = trials[trials["state"] == "complete"]
    best = complete["score"].idxmax() if METRICS[metric].better == "higher" else complete["score"].idxmin()
    for axes, (name, tried) in zip(grid.flat, space.items(), strict=False):
        values = trials[name]
        if isinstance(tried, list):
            choices = sorted(values.unique(), key=_numbers_first)
            values = values.map(choices.index)
            axes.set_xticks(range(len(choices)), [wrapped(setting_text(choice), 12) for choice in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        elif tried.get("log"):
            axes.set_xscale("log")
        _dots(axes, values, trials, metric)
        axes.plot(values[best], trials["score"][best], "D", color=ORANGE, markeredgecolor=BLACK, label="best")
        axes.set_xlabel(wrapped(name, 26))
    for axes in grid[:, 0]:
        axes.set_ylabel(f"validation {metric}")
    for axes in grid.flat[len(space) :]:
        axes.remove()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _numbers_first(choice: Any) -> tuple[float, str]:
    is_number = isinstance(choice, int | float) and not math.isnan(choice)
    return float(choice) if is_number else math.inf, str(choice)


def _dots(axes: Axes, places: pd.Series, trials: pd.DataFrame, metric: str) -> None:
    """Draw trials by their state; those without a finite score at the worse edge."""
    scores = trials["score"].where(np.isfinite(trials["score"]))
    scale_scores(axes.yaxis, scores, metric)
    worst = 0.02 if METRICS[metric].better == "higher" else 0.98
    for state, (marker, color, face) in STATES.items():
        rows = trials["state"] == state
        style = {"color": color, "markerfacecolor": face, "markersize": 5.5, "marker": marker, "ls": "none"}
        if (rows & scores.notna()).any():
            axes.plot(places[rows & scores.notna()], scores[rows & scores.notna()], label=state, **style)
        if (lost := rows & scores.isna()).any():
            label = None if (rows & scores.notna()).any() else state
            heights = [worst] * int(lost.sum())
            axes.plot(places[lost], heights, transform=axes.get_xaxis_transform(), label=label, **style)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
