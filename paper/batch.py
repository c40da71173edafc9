"""How many tasks must meet in a batch?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from paper.arms import ArmStudy, Point
from paper.comparison import agreement, every_gain, outcome, primary
from paper.controls import KNOWN
from paper.study import Tables


@dataclass(frozen=True, kw_only=True)
class BatchStudy(ArmStudy):
    """The number of tasks per outer step, at an equal number of steps.

    Each number is compared with the plain learner trained on batches of the same size, so that what more
    tasks give any learner is not taken for a gain of the term.

    Args:
        weight: strength of TRLearner's term.
        meta_batches: numbers of tasks per outer step.
    """

    weight: float = 0.1
    meta_batches: list[int] = field(default_factory=lambda: [3, 4, 8, 16])

    axis: ClassVar[str] = "tasks per batch"

    def points(self) -> list[Point]:
        arms = {
            self.reference: "none",
            "TRLearner": f"TRLearner(weight={self.weight})",
            "all-ones": f"TRLearner(weight={self.weight}, relation=Uniform)",
        }
        if self.has_traits:
            arms[KNOWN] = f"TRLearner(weight={self.weight}, relation=Known)"
        return [
            Point(series, n, regularizers, changes={"meta_batch_size": n})
            for series, regularizers in arms.items()
            for n in self.meta_batches
        ]

    def findings(self, tables: Tables) -> list[str]:
        rows = primary(tables["summary"])
        learned = rows[rows["series"] == "TRLearner"]
        against = f"{self.reference} with as many tasks"
        return [
            outcome(learned, "batch sizes with TRLearner", against, "a batch of"),
            agreement("the term improves the score at every batch size", every_gain(learned)),
        ]
