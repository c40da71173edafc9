"""Studies that train arms which differ in one setting, on the tasks of any recipe."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from metalens.errors import MetaLensError
from metalens.experiments import RECIPES, Recipe, find_recipe
from metalens.experiments.arms import Arm, arms_of
from metalens.experiments.experiment import Watcher, run
from metalens.io.files import MANIFEST
from metalens.specs.calls import canonical
from metalens.specs.settings import changed
from metalens.statistics.arms import ARM
from metalens.tasks import Task
from paper.comparison import POINT, compare, is_lower_better, primary
from paper.drawing import against_setting
from paper.study import Drawing, Study, Tables

FOR_CLASSES = ("LabelSmoothing", "CrossTaskConfidencePenalty")  # regularizers that refuse real targets
EXPLODED = 1000  # times the median of a score
PARTS = "parts"  # folder of the runs of a study


class Point(NamedTuple):
    """One arm of a study, and where it stands in the figure.

    Attributes:
        series: the line that it belongs to.
        setting: its place on the axis.
        regularizers: as a recipe writes them.
        learner: as a recipe writes it; by default the study's.
        changes: settings of the recipe that differ for this point.
    """

    series: str
    setting: float | str
    regularizers: str = "none"
    learner: str | None = None
    changes: Mapping[str, Any] = {}


class Part(NamedTuple):
    """Points whose arms are compared by one run of a recipe."""

    recipe: Recipe
    points: list[tuple[Point, Arm]]


@dataclass(frozen=True, kw_only=True)
class ArmStudy(Study):
    """A study whose points are arms of a recipe.

    Args:
        on: the recipe whose tasks, network and budget are used.
        learner: the learner to train, as a recipe writes it.
        steps: outer steps; null for those of the recipe.
        base: any other settings of the recipe, such as base.n_train_tasks.

    Attributes:
        axis: what the points differ in.
        reference: the series with which the others are compared.
        logarithmic: whether settings are shown by their ratios.
    """

    on: str = "demo"
    learner: str = "MAML"
    steps: int | None = None
    base: dict[str, Any] = field(default_factory=dict)

    axis: ClassVar[str]
    reference: ClassVar[str] = "plain learner"
    logarithmic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not RECIPES.is_known(self.on):
            raise MetaLensError(
                f"There is no recipe {self.on!r} to study on; choose from {', '.join(RECIPES)}."
            )

    @abstractmethod
    def points(self) -> list[Point]:
        """Return the points of the figure, those of the reference first."""

    def recipe(self, **changes: Any) -> Recipe:
        """Return the recipe that is studied on, with the study's settings and further changes.

        Raises:
            MetaLensError: the recipe does not know a setting, or refuses its value.
        """
        recipe = find_recipe(self.on)
        own: dict[str, Any] = {"learner": [self.learner], "regularizers": ["none"], "seeds": self.seeds}
        own |= {} if self.steps is None else {"steps": self.steps}
        base = _known(recipe, self.base, {*own, "steps"})
        machine = {**base.get("machine", {}), **changes.get("machine", {})}
        return changed(recipe, {**base, **own, **changes, "machine": machine})

    def parts(self) -> list[Part]:
        """Return the points in as few runs as their settings allow."""
        groups: dict[tuple[str, str], list[Point]] = {}
        for point in self.points():
            key = (point.learner or self.learner, json.dumps(dict(point.changes), sort_keys=True))
            groups.setdefault(key, []).append(point)
        parts = []
        for (learner, _), points in groups.items():
            texts = list(dict.fromkeys(canonical(point.regularizers) for point in points))
            recipe = self.recipe(**{**points[0].changes, "learner": [learner], "regularizers": texts})
            arms = dict(zip(texts, arms_of(recipe), strict=True))
            parts.append(Part(recipe, [(point, arms[canonical(point.regularizers)]) for point in points]))
        return parts

    @property
    def has_traits(self) -> bool:
        """Whether the tasks carry descriptors, so that their true relations are known."""
        return len(self._task.descriptors) > 0

    @property
    def has_classes(self) -> bool:
        """Whether the targets of the tasks are classes."""
        return not self._task.query.y.is_floating_point()

    @cached_property
    def _task(self) -> Task:
        return self.recipe().distribution("train", self.seeds[0])[0]

    @property
    def n_trainings(self) -> int:
        return sum(len(arms_of(part.recipe)) * len(self.seeds) for part in self.parts())

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Run the parts, each into a folder of its own, and gather their rows.

        Returns:
            `"results"`, `"curves"` (learning curves) and `"times"` with the columns of a point, and
            `"summary"`, see `compare`, with the mean `train_seconds` of a seed.
        """
        gathered: dict[str, list[pd.DataFrame]] = {"results": [], "curves": [], "times": []}
        for number, part in enumerate(self.parts()):
            target = folder / PARTS / str(number)
            target.mkdir(parents=True, exist_ok=True)
            run(part.recipe, target, watcher=watcher)
            for name, frame in self._rows(part, target):
                gathered[name].append(frame)
        tables = {name: self._in_order(pd.concat(frames)) for name, frames in gathered.items()}
        times = tables["times"].groupby(POINT, sort=False)["train_seconds"].mean().reset_index()
        summary = compare(tables["results"], self.reference).merge(times, on=POINT)
        return {"summary": summary, **tables}

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        summary, against = tables["summary"], self.reference
        caption = (
            f"Left: mean score on test tasks with its 95% interval over seeds. Right: paired difference to "
            f"{against} on the same tasks; filled points have an interval that excludes 0."
        )
        figure = against_setting(summary, against, logarithmic=self.logarithmic)
        return {"scores": Drawing(figure, caption)}

    def cautions(self, tables: Tables) -> list[str]:
        curves = tables["curves"]
        diverged = curves[curves["metric"] == "diverged"].drop_duplicates([*POINT, "seed"])
        found = [
            f"Training of {_place(row.series, row.setting)} diverged with seed {row.seed} at step {row.step}."
            for row in diverged.itertuples()
        ]
        rows = primary(tables["summary"])
        missing = [f"{_place(row.series, row.setting)} ({row.diverged:.2%})"
                   for row in rows[rows["diverged"] > 0].itertuples()]  # fmt: skip
        found += list(self._exploded(tables["results"]))
        if missing:
            found.append(
                f"Without a mean, as the scores of some test tasks are not finite (their share): "
                f"{', '.join(missing)}."
            )
        return found

    def _exploded(self, results: pd.DataFrame) -> Iterator[str]:
        """Yield a sentence for every point whose mean is made by a few tasks."""
        rows = primary(results)
        if not is_lower_better(rows["metric"].iloc[0]):
            return
        for (_, series, setting), point in rows.groupby(POINT, sort=False):
            exploded = np.isfinite(point["value"]) & (point["value"] > EXPLODED * point["value"].median())
            if point["value"][exploded].sum() > point["value"][~exploded].sum():
                seeds = ", ".join(map(str, point["seed"][exploded].unique()))
                yield (
                    f"The mean of {_place(series, setting)} is made by {exploded.sum()} of {len(point)} "
                    f"tasks (seeds {seeds}), on which adaptation exploded; compare the medians."
                )

    def _rows(self, part: Part, folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the rows of a finished part, for every point and table."""
        cells = json.loads((folder / MANIFEST).read_text())["cells"]
        sources = {
            "results": pd.read_csv(folder / "results.csv").drop(columns=["recipe", "split"]),
            "curves": pd.read_csv(folder / "metrics.csv"),
            "times": pd.DataFrame(cells)[[*ARM, "seed", "train_seconds", "test_seconds"]],
        }
        for point, arm in part.points:
            place = {"panel": self.axis, "series": point.series, "setting": point.setting}
            for name, rows in sources.items():
                is_arm = (rows[ARM] == list(arm)).all(axis=1)
                yield name, rows[is_arm].assign(**place)

    def _in_order(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows in the order of the points, whatever part they come from."""
        order = {(point.series, point.setting): number for number, point in enumerate(self.points())}
        place = [order[key] for key in zip(rows["series"], rows["setting"], strict=True)]
        columns = [*POINT, *(name for name in rows.columns if name not in POINT)]
        return rows.assign(_place=place).sort_values("_place", kind="stable")[columns].reset_index(drop=True)


def _place(series: str, setting: float | str) -> str:
    """Return the name of a point; 0 is the setting of a series that has only one.

    >>> _place("TRLearner", 0.3), _place("all-ones", 0)
    ('TRLearner at 0.3', 'all-ones')
    """
    return series if setting == 0 else f"{series} at {setting}"


def _known(recipe: Recipe, settings: dict[str, Any], fixed: set[str]) -> dict[str, Any]:
    """Return settings of a recipe, after refusing others."""
    known = {field.name for field in fields(recipe)} - {"name", "description"} - fixed
    if unknown := sorted(settings.keys() - known):
        raise MetaLensError(
            f"base has settings that {recipe.name} does not know or the study decides: {', '.join(unknown)}; "
            f"it can have {', '.join(sorted(known))}."
        )
    return settings
