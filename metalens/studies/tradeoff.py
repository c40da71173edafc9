"""What does a gain cost in training time?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from metalens.benchmarks.calls import REGULARIZERS
from metalens.benchmarks.experiment import Watcher
from metalens.results.figures import COLORS, STYLE, WIDTH
from metalens.results.statistics import FRACTIONS
from metalens.studies.arms import FOR_CLASSES, ArmStudy, Point
from metalens.studies.comparison import agreement, compare, is_lower_better, outcome, primary, significant
from metalens.studies.drawing import GRID, MARKERS, forest
from metalens.studies.study import Drawing, Tables

METHOD = "TRLearner"


@dataclass(frozen=True, kw_only=True)
class TradeoffStudy(ArmStudy):
    """The scores of all regularizers against the time of their training.

    Every training runs by itself on one thread, so that all are timed alike.

    Args:
        regularizers: the regularizers to compare; those that are for classes are left out of regression.
    """

    regularizers: list[str] = field(default_factory=lambda: list(REGULARIZERS))

    axis: ClassVar[str] = "regularizer"

    def points(self) -> list[Point]:
        alone = {"together": False, "threads": 1}
        possible = [text for text in self.regularizers if self.has_classes or text not in FOR_CLASSES]
        arms = {self.reference: "none", **{text: text for text in possible}}
        return [Point(series, 0, text, changes=alone) for series, text in arms.items()]

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Do as every study of arms, and give the times intervals as well.

        Returns:
            The tables of `ArmStudy.measure`, and `"seconds"`, see `compare`: training time of a seed.
        """
        tables = super().measure(folder, watcher)
        seconds = tables["times"].rename(columns={"train_seconds": "value"})
        seconds = seconds.assign(task=0, metric="training seconds")
        return {**tables, "seconds": compare(seconds, self.reference)}

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        rows = primary(tables["summary"])
        return {
            "score-against-time": Drawing(
                _scatter(rows, tables["seconds"]),
                "Mean test score against training time of one seed, both with 95% intervals over seeds.",
            ),
            "differences": Drawing(
                forest(tables["summary"], self.reference),
                f"Paired differences to {self.reference}. Filled: the 95% interval over seeds excludes 0.",
            ),
        }

    def findings(self, tables: Tables) -> list[str]:
        rows = primary(tables["summary"])
        others = rows[rows["series"] != self.reference]
        seconds = tables["seconds"].set_index("series")["mean"]
        plain = seconds[self.reference]
        found = [outcome(others, "regularizers", self.reference)]
        better = significant(others, "better")
        claim = "TRLearner has the best ratio of score to time among regularizers"
        if better.empty:
            return [*found, agreement(claim, None)]
        ratios = {
            row["series"]: abs(row["difference"]) / max(seconds[row["series"]] - plain, 0.01 * plain)
            for _, row in better.iterrows()
        }
        best = max(ratios, key=lambda name: ratios[name])
        found.append(
            f"Of the better ones, {best} gains most for its further time: it takes "
            f"{seconds[best] / plain:.1f} × the time of {self.reference}."
        )
        return [*found, agreement(claim, best.startswith(METHOD))]


@matplotlib.rc_context(STYLE)
def _scatter(rows: pd.DataFrame, seconds: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    metric = rows["metric"].iloc[0]
    scale = 100 if metric in FRACTIONS else 1
    times = seconds.set_index("series")
    for number, row in enumerate(rows.itertuples()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number // len(COLORS) % len(MARKERS)]
        time = times.loc[row.series]
        axes.plot([max(time["low"], 0.0), time["high"]], [row.mean * scale] * 2, color=color, linewidth=1.4)
        axes.plot([time["mean"]] * 2, [row.low * scale, row.high * scale], color=color, linewidth=1.4)
        axes.plot(time["mean"], row.mean * scale, marker, color=color, markersize=6, label=row.series)
    axes.set_xlabel("training time of one seed, s")
    axes.set_ylabel(f"test {metric}{' in %' if metric in FRACTIONS else ''}")
    corner = "lower left" if is_lower_better(metric) else "upper left"
    axes.set_title(f"better and faster: {corner}", loc="right", color="#555555")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper")
    return figure
