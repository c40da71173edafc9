"""Does the term help, and if so, is it the relations?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from metalens.errors import MetaLensError
from metalens.experiments.experiment import Watcher
from paper.arms import FOR_CLASSES, ArmStudy, Point
from paper.comparison import agreement, any_gain, compare, in_words, outcome, primary, significant
from paper.drawing import forest
from paper.study import Drawing, Tables

METHOD, KNOWN, MORE_STEPS = "TRLearner", "known relations", "more_steps"
CONTROLS = {  # the name of a control, which is that of its relations or regularizer, and of its series
    "uniform": "all-ones",
    "shuffled": "shuffled",
    "frozen": "fixed cosine",
    "known": KNOWN,
    "known_shuffled": f"{KNOWN}, shuffled",
    **{name: name for name in FOR_CLASSES},
    MORE_STEPS: "plain learner with more steps",
}


@dataclass(frozen=True, kw_only=True)
class ControlStudy(ArmStudy):
    """TRLearner and its controls on the same tasks.

    Args:
        weight: strength of the term, the same in all arms that have it.
        settings: further settings of TRLearner, as a recipe writes them, such as task_vector=labeled.
        more_steps: outer steps of the plain learner in the control of equal compute, as a multiple; the
            training times stand in the table.
        baselines: learners that train on each task alone.
        controls: the controls to train; those that need classes or descriptors are left out where tasks have
            none.
    """

    weight: float = 0.1
    settings: str = ""
    more_steps: float = 2.0
    baselines: list[str] = field(
        default_factory=lambda: ["Ridge", "KNN", "RandomForest(n_trees=30)", "FromScratch"]
    )
    controls: list[str] = field(default_factory=lambda: list(CONTROLS))

    axis: ClassVar[str] = "control"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.more_steps < 1:
            raise MetaLensError(f"more_steps must be at least 1, got {self.more_steps}.")
        if unknown := [name for name in self.controls if name not in CONTROLS]:
            raise MetaLensError(
                f"There are no controls named {', '.join(unknown)}; choose from {', '.join(CONTROLS)}."
            )

    def points(self) -> list[Point]:
        method = Point(METHOD, 0, self._term("learned"))
        controls = [self._control(name) for name in CONTROLS if name in self.controls and self._applies(name)]
        alone = [Point(learner, 0, learner=learner, changes={"n_val_tasks": 0}) for learner in self.baselines]
        return [Point(self.reference, 0), method, *controls, *alone]

    def _applies(self, control: str) -> bool:
        if control in FOR_CLASSES:
            return self.has_classes
        return self.has_traits or not control.startswith("known")

    def _control(self, name: str) -> Point:
        if name == MORE_STEPS:
            return Point(CONTROLS[name], 0, changes={"steps": round(self.recipe().steps * self.more_steps)})
        term = f"{name}(weight={self.weight})" if name in FOR_CLASSES else self._term(name)
        return Point(CONTROLS[name], 0, term)

    def _term(self, relations: str) -> str:
        further = f", {self.settings}" if self.settings else ""
        return f"TRLearner(weight={self.weight}, relations={relations}{further})"

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Run the arms, and compare the controls with TRLearner as well.

        Returns:
            The tables of `ArmStudy.measure`, and `"against_trlearner"`, see `compare`.
        """
        tables = super().measure(folder, watcher)
        return {**tables, "against_trlearner": compare(tables["results"], METHOD)}

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        shown = [name for name in tables["summary"]["series"].unique() if name not in self.baselines]
        plain, method = (
            table[table["series"].isin(shown)] for table in (tables["summary"], tables["against_trlearner"])
        )
        filled = "Filled: the 95% interval over seeds excludes 0."
        return {
            "against-plain-learner": Drawing(
                forest(plain, self.reference), f"Paired differences to {self.reference}. {filled}"
            ),
            "against-trlearner": Drawing(
                forest(method, METHOD),
                f"Paired differences of every control to TRLearner with learned relations. {filled} "
                "Where all-ones and shuffled relations do as well, it is not the relations that help.",
            ),
        }

    def findings(self, tables: Tables) -> list[str]:
        rows, against = primary(tables["summary"]), primary(tables["against_trlearner"])
        method = rows[rows["series"] == METHOD]
        wrong = against[against["series"].isin(("all-ones", "shuffled"))]
        found = [f"TRLearner against {self.reference}: {in_words(method.iloc[0])}."]
        known = rows[rows["series"] == KNOWN]
        if len(known):
            found.append(f"With relations known from descriptors: {in_words(known.iloc[0])}.")
        if len(wrong):
            found.append(outcome(wrong, "controls with wrong relations", METHOD))
            shown = len(significant(wrong, "worse")) == len(wrong)
            found.append(
                "Learned relations are better than wrong ones, so the relations themselves matter."
                if shown
                else "That the relations themselves matter is not shown: wrong ones do not do clearly worse."
            )
        found.append(agreement("the term improves on the plain learner", any_gain(method)))
        return found
