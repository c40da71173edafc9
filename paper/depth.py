"""How many meta-layers does a task need?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from metalens.specs.calls import Call, learner_call
from paper.arms import ArmStudy, Point
from paper.comparison import agreement, compare, every_gain, outcome, primary
from paper.study import Tables


@dataclass(frozen=True, kw_only=True)
class DepthStudy(ArmStudy):
    """The number of meta-layers (inner steps), the same in training and at test time, or adaptive there.

    Args:
        weight: strength of TRLearner's term.
        depths: numbers of meta-layers.
        held_out: share of the support by which a task chooses its own number at test time, of those up to
            the largest; see `test_held_out` of `GradientLearner`.
        outer_lr: step size of the outer loop, at all depths: deep ones can diverge where shallow ones do not.
        clip_norm: largest norm of the outer gradient, likewise; null for no limit.
    """

    weight: float = 0.1
    depths: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 8])
    held_out: float = 0.2
    outer_lr: float = 0.003
    clip_norm: float | None = 10.0

    axis: ClassVar[str] = "number of meta-layers"

    def points(self) -> list[Point]:
        adaptive = {"test_inner_steps": max(self.depths), "test_held_out": self.held_out}
        arms: dict[str, tuple[str, dict[str, Any]]] = {
            self.reference: ("none", {}),
            "TRLearner": (f"TRLearner(weight={self.weight})", {}),
            "adaptive at test time": ("none", adaptive),
        }
        call = learner_call(self.learner)
        return [
            Point(
                series,
                n,
                regularizers,
                str(Call(call.name, {**call.settings, "inner_steps": n, **more})),
                {"outer_lr": self.outer_lr, "clip_norm": self.clip_norm},
            )
            for series, (regularizers, more) in arms.items()
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
            outcome(
                rows[rows["series"] == "adaptive at test time"],
                "depths of training with an adaptive one at test time",
                "the same fixed depth",
                "depth",
            ),
            agreement("TRLearner improves the score at every number of meta-layers", every_gain(learned)),
        ]
        if len(self.depths) > 1:
            more = deeper[deeper["series"] == "more"]
            found.insert(0, outcome(more, f"depths of {self.reference}", f"depth {fewest}", "depth"))
        return found
