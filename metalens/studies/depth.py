"""How many meta-layers does a task need?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from metalens.benchmarks.calls import Call, parse_calls
from metalens.studies.arms import ArmStudy, Point
from metalens.studies.comparison import agreement, compare, every_gain, outcome, primary
from metalens.studies.study import Tables


@dataclass(frozen=True, kw_only=True)
class DepthStudy(ArmStudy):
    """The number of meta-layers (inner steps), the same in training and at test time.

    Args:
        weight: strength of TRLearner's term.
        depths: numbers of meta-layers.
    """

    weight: float = 0.1
    depths: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 8])

    axis: ClassVar[str] = "number of meta-layers"

    def points(self) -> list[Point]:
        (call,) = parse_calls(self.learner)
        learners = {n: str(Call(call.name, {**call.settings, "inner_steps": n})) for n in self.depths}
        arms = {self.reference: "none", "TRLearner": f"TRLearner(weight={self.weight})"}
        return [
            Point(series, n, regularizers, learners[n])
            for series, regularizers in arms.items()
            for n in self.depths
        ]

    def findings(self, tables: Tables) -> list[str]:
        rows = primary(tables["summary"])
        learned = rows[rows["series"] == "TRLearner"]
        plain = tables["results"][tables["results"]["series"] == self.reference]
        fewest = min(self.depths)
        is_fewest = plain["setting"] == fewest
        plain = plain.assign(series=is_fewest.map({True: "fewest", False: "more"}))
        deeper = primary(compare(plain, "fewest"))
        found = [
            outcome(learned, "depths with TRLearner", f"{self.reference} at the same depth", "depth"),
            agreement("TRLearner improves the score at every number of meta-layers", every_gain(learned)),
        ]
        if len(self.depths) > 1:
            more = deeper[deeper["series"] == "more"]
            found.insert(0, outcome(more, f"depths of {self.reference}", f"depth {fewest}", "depth"))
        return found
