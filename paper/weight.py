"""How strong must the term be?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from paper.arms import ArmStudy, Point
from paper.comparison import agreement, any_gain, outcome, primary
from paper.study import Tables


@dataclass(frozen=True, kw_only=True)
class WeightStudy(ArmStudy):
    """The strength lambda of TRLearner's term, with learned and with all-ones relations.

    Args:
        weights: values of lambda.
    """

    weights: list[float] = field(default_factory=lambda: [0.03, 0.1, 0.3, 1.0, 3.0])

    axis: ClassVar[str] = "weight λ of the term"
    logarithmic: ClassVar[bool] = True

    def points(self) -> list[Point]:
        learned = [Point("TRLearner", w, f"TRLearner(weight={w})") for w in self.weights]
        uniform = [Point("all-ones", w, f"TRLearner(weight={w}, relation=Uniform)") for w in self.weights]
        return [Point(self.reference, 0.0), *learned, *uniform]

    def findings(self, tables: Tables) -> list[str]:
        rows = primary(tables["summary"])
        learned, uniform = (rows[rows["series"] == name] for name in ("TRLearner", "all-ones"))
        return [
            outcome(learned, "weights of TRLearner", self.reference, "λ ="),
            outcome(uniform, "weights of the all-ones control", self.reference, "λ ="),
            agreement("the term improves the score at the weight it chose", any_gain(learned)),
        ]
