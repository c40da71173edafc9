"""How many heads does the relation need?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from paper.arms import ArmStudy, Point
from paper.comparison import agreement, any_gain, outcome, primary
from paper.study import Tables


@dataclass(frozen=True, kw_only=True)
class HeadStudy(ArmStudy):
    """The number K of heads of TRLearner's similarity layer.

    Args:
        weight: strength of TRLearner's term.
        heads: values of K.
    """

    weight: float = 0.1
    heads: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])

    axis: ClassVar[str] = "number of heads K"

    def points(self) -> list[Point]:
        learned = [
            Point("TRLearner", k, f"TRLearner(weight={self.weight}, relation=Cosine(heads={k}))")
            for k in self.heads
        ]
        return [Point(self.reference, 0), *learned]

    def findings(self, tables: Tables) -> list[str]:
        rows = primary(tables["summary"])
        learned = rows[rows["series"] == "TRLearner"]
        return [
            outcome(learned, "numbers of heads", self.reference, "K ="),
            agreement("the term with several heads improves the score", any_gain(learned)),
        ]
