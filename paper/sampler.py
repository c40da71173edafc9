"""Which tasks should meet in a batch?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from metalens.specs.calls import SAMPLERS
from paper.arms import ArmStudy, Point
from paper.comparison import agreement, any_gain, compare, outcome, primary
from paper.study import Tables

UNIFORM = "Uniform"


@dataclass(frozen=True, kw_only=True)
class SamplerStudy(ArmStudy):
    """The samplers that choose and weigh the tasks of a batch, with and without TRLearner.

    Args:
        weight: strength of TRLearner's term.
        samplers: the samplers to compare; those of the plain learner are compared with `Uniform`, which is
            always among them.
    """

    weight: float = 0.1
    samplers: list[str] = field(default_factory=lambda: list(SAMPLERS))

    axis: ClassVar[str] = "sampler"

    def points(self) -> list[Point]:
        names = list(dict.fromkeys([UNIFORM, *self.samplers]))
        arms = {self.reference: "none", "TRLearner": f"TRLearner(weight={self.weight})"}
        return [
            Point(series, name, regularizers, changes={"sampler": [name]})
            for series, regularizers in arms.items()
            for name in names
        ]

    def findings(self, tables: Tables) -> list[str]:
        rows, results = primary(tables["summary"]), tables["results"]
        learned = rows[rows["series"] == "TRLearner"]
        against = f"{self.reference} with the same one"
        found = [outcome(learned, "samplers with TRLearner", against, "sampler")]
        others = learned
        for who in (self.reference, "TRLearner"):
            of_one = results[results["series"] == who]
            against = primary(compare(of_one.assign(series=of_one["setting"], setting=0), UNIFORM))
            others = against[against["series"] != UNIFORM]
            found.append(outcome(others, f"samplers of {who}", f"{who} with uniform batches"))
        claim = "a sampler that adapts improves TRLearner"
        return [*found, agreement(claim, any_gain(others))]
