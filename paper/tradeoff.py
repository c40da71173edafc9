"""What does a gain cost in training time?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from metalens.experiments.experiment import Watcher
from metalens.reports.figures import tradeoff
from metalens.specs.calls import REGULARIZERS
from paper.arms import FOR_CLASSES, ArmStudy, Point
from paper.comparison import agreement, compare, outcome, primary, significant
from paper.drawing import forest
from paper.study import Drawing, Tables

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
        alone = {"machine": {"together": False, "threads": 1}}
        possible = [text for text in self.regularizers if self.has_classes or text not in FOR_CLASSES]
        arms = {self.reference: "none", **{text: text for text in possible}}
        return [Point(series, 0, text, changes=alone) for series, text in arms.items()]

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Run the arms, and compute intervals of the training times as well.

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
                tradeoff(rows.set_index("series"), tables["seconds"].set_index("series")),
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
