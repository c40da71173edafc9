"""Figures of predictions for held-out tasks: numbers against true ones, residuals, reliability."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from metalens.reports.figures import BLACK, BLUE, GRAY, STYLE, WIDTH

MAX_TASKS = 60  # with a box each
_N_BINS = 10  # of probabilities
_NAMED = 30  # tasks whose names fit below the axis
_DENSE = 2000  # rows, above which single dots are hardly seen


@matplotlib.rc_context(STYLE)
def predicted_against_true(predictions: pd.DataFrame) -> Figure:
    """Draw predicted against true targets, a dot for each query row, with the line on which they are equal.

    Args:
        predictions: rows `task, true, predicted` of numbers; those that are not finite are not drawn.
    """
    rows = predictions[np.isfinite(predictions["predicted"])]
    figure = Figure(figsize=(WIDTH * 0.7, WIDTH * 0.66), layout="constrained")
    axes = figure.subplots()
    dots = {"alpha": 0.5 if len(rows) <= _DENSE else 0.15, "markersize": 3, "markeredgewidth": 0}
    axes.plot(rows["true"], rows["predicted"], "o", color=BLUE, rasterized=len(rows) > _DENSE, **dots)
    low, high = predictions["true"].min(), predictions["true"].max()
    axes.plot([low, high], [low, high], color=BLACK, linewidth=1.0, label="predicted = true")
    axes.set(xlabel="true", ylabel="predicted")
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(loc="upper left")
    return figure


@matplotlib.rc_context(STYLE)
def residuals(predictions: pd.DataFrame) -> Figure:
    """Draw the residuals of every task: a box of the quartiles, and whiskers from 5% to 95% of the rows.

    Tasks are in the order of their median; of more than 60 those at equal distances in this order are drawn.

    Args:
        predictions: rows `task, true, predicted` of numbers; those that are not finite are not drawn.
    """
    rows = predictions[np.isfinite(predictions["predicted"])]
    of_task = (rows["true"] - rows["predicted"]).groupby(rows["task"])
    names = of_task.median().sort_values(kind="stable").index
    if len(names) > MAX_TASKS:
        names = names[np.linspace(0, len(names) - 1, MAX_TASKS).round().astype(int)]
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=BLACK, linewidth=1.0, zorder=1.5)
    lines = {"color": BLUE, "linewidth": 1.0}
    axes.boxplot(
        [of_task.get_group(name) for name in names], whis=(5, 95), showfliers=False, widths=0.6,
        boxprops=lines, whiskerprops=lines, showcaps=False, medianprops={"color": BLACK, "linewidth": 1.6},
    )  # fmt: skip
    is_named = len(names) <= _NAMED
    axes.set_xticks(range(1, len(names) + 1) if is_named else [], list(map(str, names)) if is_named else [])
    axes.tick_params(axis="x", length=0, rotation=90)
    axes.set(xlabel="" if is_named else "held-out tasks", ylabel="true − predicted")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    return figure


def reliability_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return how often what was predicted with a probability was true: rows `probability, observed, n`.

    Probabilities are divided into ten bins of equal width; bins without rows are left out.

    Args:
        predictions: rows `task, true, predicted`: probabilities, and 1 where it was true and 0 elsewhere.

    Returns:
        For each bin the mean probability, the share that was true, and the number of rows.

    >>> rows = pd.DataFrame({"true": [0, 1, 1, 1], "predicted": [0.45, 0.45, 0.92, 0.98]})
    >>> reliability_rows(rows).values.round(2).tolist()
    [[0.45, 0.5, 2.0], [0.95, 1.0, 2.0]]
    """
    from sklearn.calibration import calibration_curve  # slow to import

    rows = predictions[np.isfinite(predictions["predicted"])]
    chances = rows["predicted"].clip(0, 1)
    observed, mean = calibration_curve(rows["true"], chances, n_bins=_N_BINS)
    bins = np.searchsorted(np.linspace(0, 1, _N_BINS + 1)[1:-1], chances)
    counts = np.bincount(bins)
    return pd.DataFrame({"probability": mean, "observed": observed, "n": counts[counts > 0]})


@matplotlib.rc_context(STYLE)
def reliability(predictions: pd.DataFrame, what: str) -> Figure:
    """Draw a reliability diagram: how often it was true against its probability, and the number of rows.

    Args:
        predictions: see `reliability_rows`.
        what: whose probability it is.
    """
    rows = reliability_rows(predictions)
    figure = Figure(figsize=(WIDTH * 0.7, WIDTH * 0.8), layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1.0, linestyle="--", label="perfectly calibrated")
    axes.plot(rows["probability"], rows["observed"], "o-", color=BLUE, linewidth=1.6, label="observed")
    axes.set(ylabel="share that was true", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="upper left")
    axes.grid()
    below.bar(rows["probability"], rows["n"], width=0.04, color=BLUE)
    for row in rows.itertuples():
        below.annotate(f"{row.n:,}", (row.probability, row.n), ha="center", va="bottom", fontsize=7)
    below.set(ylabel="rows", xlabel=f"probability of {what}")
    below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.margins(y=0.25)
    for panel in (axes, below):
        panel.set_axisbelow(True)
    return figure
