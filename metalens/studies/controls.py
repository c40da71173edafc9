"""Does the term help, and if so, is it the relations?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from metalens.benchmarks.experiment import Watcher
from metalens.errors import MetaLensError
from metalens.studies.arms import FOR_CLASSES, ArmStudy, Point
from metalens.studies.comparison import agreement, any_gain, compare, in_words, outcome, primary, significant
from metalens.studies.drawing import forest
from metalens.studies.study import Drawing, Tables

METHOD, KNOWN = "TRLearner", "known relations"


@dataclass(frozen=True, kw_only=True)
class ControlStudy(ArmStudy):
    """TRLearner and its controls on the same tasks.

    Args:
        weight: strength of the term, the same in all arms that have it.
        settings: further settings of TRLearner, as a recipe writes them, such as task_vector=labeled.
        more_steps: outer steps of the plain learner in the control of equal compute, as a multiple; the
            training times stand in the table.
        baselines: learners that train on each task alone.
        controls: the controls to train, by their names in the figure; null for all that apply.
    """

    weight: float = 0.1
    settings: str = ""
    more_steps: float = 2.0
    baselines: list[str] = field(
        default_factory=lambda: ["Ridge", "KNN", "RandomForest(n_trees=30)", "FromScratch"]
    )
    controls: list[str] | None = None

    axis: ClassVar[str] = "control"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.more_steps < 1:
            raise MetaLensError(f"more_steps must be at least 1, got {self.more_steps}.")

    def points(self) -> list[Point]:
        everything = self._controls()
        chosen = [control.series for control in everything] if self.controls is None else self.controls
        if unknown := sorted(set(chosen) - {control.series for control in everything}):
            raise MetaLensError(
                f"controls has names that do not apply here: {', '.join(unknown)}; it can have "
                f"{', '.join(control.series for control in everything)}."
            )
        method = Point(METHOD, 0, self._term("learned"))
        controls = [control for control in everything if control.series in chosen]
        alone = [Point(learner, 0, learner=learner, changes={"n_val_tasks": 0}) for learner in self.baselines]
        return [Point(self.reference, 0), method, *controls, *alone]

    def _controls(self) -> list[Point]:
        relations = {"all-ones": "uniform", "shuffled": "shuffled", "fixed cosine": "frozen"}
        if self.has_traits:
            relations |= {KNOWN: "known", f"{KNOWN}, shuffled": "known_shuffled"}
        terms = [Point(series, 0, self._term(kind)) for series, kind in relations.items()]
        if self.has_classes:
            terms += [Point(name, 0, f"{name}(weight={self.weight})") for name in FOR_CLASSES]
        steps = round(self.recipe().steps * self.more_steps)
        longer = Point(f"{self.reference}, {self.more_steps:g} × steps", 0, changes={"steps": steps})
        return [*terms, longer]

    def _term(self, relations: str) -> str:
        further = f", {self.settings}" if self.settings else ""
        return f"TRLearner(weight={self.weight}, relations={relations}{further})"

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Do as every study of arms, and compare the controls with TRLearner as well.

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
            found.append(f"With relations known from traits: {in_words(known.iloc[0])}.")
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
