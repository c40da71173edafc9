"""Are relations between tasks worth something at test time?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from metalens.evaluation import Validation, evaluate
from metalens.experiments.experiment import Watcher
from metalens.experiments.loading import load_objective
from metalens.experiments.recipe import Recipe
from metalens.learners import Learner
from metalens.relations.related_models import RelatedBy, RelatedModels, Slots
from paper.arms import PARTS, ArmStudy, Point
from paper.comparison import compare, outcome, primary, significant
from paper.drawing import forest
from paper.study import Drawing, Tables

OWN = "own model"
SERIES: dict[RelatedBy, str] = {
    "predictions": "related by predictions",
    "regression": "weights by regression",
    "features": "cosine of features",
    "adaptation": "cosine of adaptation",
    "uniform": "all-ones",
    "shuffled": "shuffled",
}
CONTROLS = (SERIES["uniform"], SERIES["shuffled"])


@dataclass(frozen=True, kw_only=True)
class RelatedModelsStudy(ArmStudy):
    """Test tasks predicted by their own models alone, and together with the models of training tasks.

    See `RelatedModels`. Share and temperature are chosen on validation tasks, for each kind of relation, arm
    and seed by itself.

    Args:
        weight: strength of TRLearner's term in the second arm.
        known: training tasks whose models are at hand.
        related_by: kinds of relations; that by adaptation is left out where no parameters adapt.
        known_shot: support examples of these tasks, where there are more of them; null for as many as in
            training.
        slots: of classes, see `RelatedModels`.
    """

    weight: float = 0.1
    known: int = 100
    related_by: list[RelatedBy] = field(default_factory=lambda: list(SERIES))
    known_shot: int | None = None
    slots: Slots = "fixed"

    axis: ClassVar[str] = "trained as"
    reference: ClassVar[str] = OWN

    def points(self) -> list[Point]:
        arms = {ArmStudy.reference: "none", "TRLearner": f"TRLearner(weight={self.weight})"}
        return [Point(OWN, arm, regularizers) for arm, regularizers in arms.items()]

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Train the arms, and test each with the models of related tasks.

        Returns:
            The tables of `ArmStudy.measure`, whose results have the tests with related models as well, and
            `"choices"`: share, temperature and score on validation tasks of everything that could be chosen.
        """
        tables = super().measure(folder, watcher)
        (part,) = self.parts()
        results, choices = [tables["results"]], []
        for point, arm in part.points:
            for seed in self.seeds:
                learner = load_objective(folder / PARTS / "0", part.recipe, arm, seed).learner
                for kind, scores, chosen in self._tests(part.recipe, seed, learner):
                    place = {
                        "panel": self.axis,
                        "series": SERIES[kind],
                        "setting": point.setting,
                        "seed": seed,
                    }
                    trained = arm._asdict()
                    results.append(scores.assign(**place, **trained))
                    choices.append(chosen.assign(**place))
        everything = pd.concat(results, ignore_index=True)
        return {
            **tables,
            "results": everything,
            "summary": compare(everything, OWN),
            "choices": pd.concat(choices, ignore_index=True),
        }

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        rows = tables["summary"]
        named = rows.assign(series=rows["series"] + ", " + rows["setting"])
        others = named[rows["series"] != OWN]
        caption = (
            f"Paired differences to {OWN} alone, of the learner that was trained as named. Filled: the 95% "
            "interval over seeds excludes 0. Share and temperature were chosen on validation tasks, where a "
            "share of 0, which changes nothing, was among the choices."
        )
        return {"differences": Drawing(forest(others, OWN), caption)}

    def findings(self, tables: Tables) -> list[str]:
        rows = primary(tables["summary"])
        others = rows[rows["series"] != OWN]
        controls = others["series"].isin(CONTROLS)
        found = [
            outcome(others[~controls], "kinds of relations", f"{OWN} alone"),
            outcome(others[controls], "controls without relations", f"{OWN} alone"),
        ]
        better = significant(others[~controls], "better")
        if len(better):
            best = tables["results"][tables["results"]["series"].isin((better["series"].iloc[0], *CONTROLS))]
            against = primary(compare(best, better["series"].iloc[0]))
            wrong = against[against["series"].isin(CONTROLS)]
            found.append(outcome(wrong, "controls without relations", better["series"].iloc[0]))
        return [*found, "The paper relates tasks in training only; there is nothing of it to compare with."]

    def _tests(
        self, recipe: Recipe, seed: int, learner: Learner
    ) -> Iterator[tuple[RelatedBy, pd.DataFrame, pd.DataFrame]]:
        """Yield the scores on test tasks, and what could be chosen, for each kind of relation."""
        source = recipe if self.known_shot is None else replace(recipe, k_shot=self.known_shot)
        known, test = source.distribution("train", seed), recipe.distribution("test", seed)
        validation = Validation(recipe.distribution("val", seed), n_tasks=recipe.n_val_tasks)
        for kind in self.related_by:
            if kind == "adaptation" and not learner.adapted_parameters():
                continue
            related = RelatedModels(learner, known, n_tasks=self.known, related_by=kind, slots=self.slots)
            chosen = related.choose(validation)
            scores = evaluate(related, test, n_tasks=recipe.n_test_tasks)
            yield (
                kind,
                scores,
                chosen.assign(
                    chosen=(chosen["share"] == related.share) & (chosen["temperature"] == related.temperature)
                ),
            )
