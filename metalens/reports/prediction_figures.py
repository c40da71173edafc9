"""Figures of predictions for held-out tasks: against true targets, residuals, reliability, importance."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from metalens.metrics import METRICS
from metalens.reports.figures import BLACK, BLUE, GRAY, STYLE, WIDTH, label_rows
from metalens.statistics.comparisons import wrapped
from metalens.statistics.intervals import estimate
from metalens.statistics.numbers import unit

MAX_TASKS = 60  # with a box each
_N_BINS = 10  # of probabilities
MAX_INPUTS = 25  # whose importance is drawn
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


@matplotlib.rc_context(STYLE)
def score_by_support_rows(scores: pd.DataFrame, metric: str) -> Figure:
    """Draw what to expect of every number of support rows: the mean score, and the width of intervals.

    Args:
        scores: rows `k_shot, score, half_width`, in the order of `k_shot`; `half_width` is of prediction
            intervals, in units of the target, and nan where there are none.
        metric: of the score.
    """
    panels = {"score": f"mean {metric}"}
    if scores["half_width"].notna().any():
        panels["half_width"] = "half width of 90% intervals"
    figure = Figure(figsize=(WIDTH * (0.55 if len(panels) == 1 else 1), 2.8), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (column, label) in zip(drawn, panels.items(), strict=True):
        axes.plot(range(len(scores)), scores[column], "o-", color=BLUE, linewidth=1.6, markersize=4)
        axes.set_xticks(range(len(scores)), scores["k_shot"].astype(str))
        axes.set(xlabel="support rows", ylabel=label)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    if METRICS[metric].unit == "fraction":
        figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        figure.axes[0].yaxis.set_major_locator(MaxNLocator(6))
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
    below.set(xticks=np.linspace(0, 1, 6), ylabel="rows", xlabel=f"probability of {what}")
    below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.margins(y=0.25)
    for panel in (axes, below):
        panel.set_axisbelow(True)
    return figure


def importance_rows(importance: pd.DataFrame) -> pd.DataFrame:
    """Return the mean effect of every input over tasks: rows `input, mean, low, high`, the largest first.

    Intervals are 95% Student t intervals over tasks. Inputs that vary within no task are left out.

    Args:
        importance: rows `task, input, value` of one model; nan where an input does not vary.

    >>> table = pd.DataFrame({"task": list("abab"), "input": list("xxyy"), "value": [0.25, 0.5, np.nan, 1.0]})
    >>> importance_rows(table).round(2).values.tolist()
    [['y', 1.0, nan, nan], ['x', 0.38, -1.21, 1.96]]
    """
    known = importance.dropna(subset="value")
    rows = [
        (name, *estimate(of_input.to_numpy(float)[None])[:3])
        for name, of_input in known.groupby("input", sort=False)["value"]
    ]
    table = pd.DataFrame(rows, columns=["input", "mean", "low", "high"])
    return table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


@matplotlib.rc_context(STYLE)
def input_importance(importance: pd.DataFrame, metric: str) -> Figure:
    """Draw the importance of inputs: means over tasks with 95% intervals, and a dot for each task.

    Of more than 25 inputs those with the largest effects are drawn.

    Args:
        importance: see `importance_rows`; an input varies in a task.
        metric: the score whose change it is.
    """
    rows = importance_rows(importance)[:MAX_INPUTS]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)  # only spreads the dots
    of_input = dict(tuple(importance.dropna(subset="value").groupby("input")["value"]))
    for place, row in enumerate(rows.itertuples()):
        values = of_input[row.input]
        heights = place + rng.uniform(-0.22, 0.22, len(values))
        axes.plot(values, heights, "o", color=GRAY, markersize=3, alpha=0.45, markeredgewidth=0)
        axes.plot([row.low, row.high], [place, place], color=BLUE, linewidth=2.0)
        axes.plot(row.mean, place, "o", color=BLUE, markersize=6)
    axes.axvline(0, color=BLACK, linewidth=1.0, zorder=1.5)
    axes.set_xlabel(f"change of {metric}{unit(metric, ' in %')} for the worse if the input is permuted")
    if METRICS[metric].unit == "fraction":
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    label_rows(axes, [wrapped(str(name), 30) for name in rows["input"]])
    return figure
