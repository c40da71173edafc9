"""What do the learned relations look like, and do they know which tasks are alike?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list
from scipy.stats import spearmanr

from metalens.experiments import Recipe
from metalens.experiments.experiment import Watcher
from metalens.experiments.loading import load_objective
from metalens.learners import Learner
from metalens.relations import Mutual, Relation
from metalens.relations.clusters import cluster_tree
from metalens.relations.relate import relate
from metalens.reports.figures import STYLE, WIDTH
from paper.arms import PARTS, ArmStudy, Point
from paper.comparison import agreement, compare, in_words
from paper.study import Drawing, Tables

BEFORE, FIXED, LEARNED, MUTUAL = "before training", "fixed cosine", "learned", "mutual predictions"
DISAGREEMENT, SPREAD = "disagreement", "spread"


@dataclass(frozen=True, kw_only=True)
class RelationStudy(ArmStudy):
    """Relation matrices of test tasks at three stages, and their agreement with the tasks' descriptors.

    The stages are the learned relations before training, the plain cosine of a trained network, and the
    learned relations after training; and, with real targets, how well the models of the latter predict each
    other's support sets. Disagreement is 1 minus Spearman's rank correlation of the relations
    with the nearness of the tasks' descriptors, where the distribution knows descriptors; spread is the
    standard deviation of the relations, 0 for a flat matrix.

    Args:
        weight: strength of TRLearner's term.
        settings: further settings of TRLearner, as a recipe writes them, such as neighbors=3.
        cosine: settings of its cosine, as a recipe writes them, such as vector=labeled.
        n_related: test tasks whose relations are drawn.
    """

    weight: float = 0.1
    settings: str = ""
    cosine: str = ""
    n_related: int = 20

    axis: ClassVar[str] = "relations"

    def points(self) -> list[Point]:
        relations = {FIXED: f"Cosine(learned=False, {self.cosine})", LEARNED: f"Cosine({self.cosine})"}
        terms = [
            Point(stage, 0, f"TRLearner(weight={self.weight}, relation={relation}, {self.settings})")
            for stage, relation in relations.items()
        ]
        return [Point(self.reference, 0), *terms]

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Train, and look at the relations of every seed.

        Returns:
            The tables of `ArmStudy.measure`, of which `"scores"` is what it calls summary; `"relations"`,
            every pair of tasks; `"summary"`, disagreement and spread.
        """
        tables = super().measure(folder, watcher)
        (part,) = self.parts()
        trained = {point.series: arm for point, arm in part.points if point.series != self.reference}
        stages = {BEFORE: trained[LEARNED], **trained}
        stages |= {} if self.has_classes else {MUTUAL: trained[LEARNED]}
        rows = []
        for stage, arm in stages.items():
            for seed in self.seeds:
                if stage == BEFORE:
                    objective = arm.build(part.recipe, seed).eval()
                else:
                    objective = load_objective(folder / PARTS / "0", part.recipe, arm, seed)
                relation = Mutual() if stage == MUTUAL else objective.relation
                pairs = relations_of(objective.learner, relation, part.recipe, seed, self.n_related)
                rows.append(pairs.assign(stage=stage, seed=seed))
        relations = pd.concat(rows, ignore_index=True)
        measured = pd.DataFrame(list(self._measures(relations)))
        return {
            "summary": compare(measured, BEFORE),
            "relations": relations,
            "scores": tables["summary"],
            **{name: tables[name] for name in ("results", "curves", "times")},
        }

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        caption = (
            f"Relations of {self.n_related} test tasks of seed {self.seeds[0]}. All panels have one order of "
            "tasks, by hierarchical clustering of the learned relations, or of the known ones where tasks "
            "have descriptors: groups of related tasks show as bright blocks. A map of one color means "
            "that all "
            "tasks count alike."
        )
        return {"relations": Drawing(_heat_maps(tables["relations"], self.seeds[0]), caption)}

    def findings(self, tables: Tables) -> list[str]:
        rows = tables["summary"]
        spread = rows[rows["metric"] == SPREAD].set_index("series")
        found = [
            "The spread of the relations is "
            + ", ".join(f"{row['mean']:.3f} {stage}" for stage, row in spread.iterrows())
            + f"; from {BEFORE} to {LEARNED}: {in_words(spread.loc[LEARNED])}."
        ]
        claim = "training turns a diffuse relation matrix into one that shows which tasks are alike"
        known = rows[rows["metric"] == DISAGREEMENT].set_index("series")
        if known.empty:
            return [*found, "These tasks have no descriptors to compare the relations with."]
        verdict = {"better": True, "worse": False}.get(known.loc[LEARNED, "verdict"])
        found.append(
            "Disagreement with the descriptors of the tasks (0 none, 1 as by chance) is "
            + ", ".join(f"{row['mean']:.2f} {stage}" for stage, row in known.iterrows())
            + f"; from {BEFORE} to {LEARNED}: {in_words(known.loc[LEARNED])}."
        )
        return [*found, agreement(claim, verdict)]

    def _measures(self, relations: pd.DataFrame) -> Iterator[dict[str, object]]:
        """Yield disagreement and spread of every stage and seed."""
        for (stage, seed), pairs in relations.groupby(["stage", "seed"], sort=False):
            others = pairs[pairs["row"] != pairs["column"]]
            row = {"panel": self.axis, "series": stage, "setting": 0, "seed": seed, "task": 0}
            yield {**row, "metric": SPREAD, "value": others["relation"].std(ddof=0)}
            if others["distance"].notna().all() and others["distance"].nunique() > 1:
                agree = spearmanr(others["relation"], -others["distance"]).statistic
                yield {**row, "metric": DISAGREEMENT, "value": 1 - agree}


def relations_of(
    learner: Learner, relation: Relation | None, recipe: Recipe, seed: int, n: int
) -> pd.DataFrame:
    """Return the relation of every pair of the first n test tasks: `row, column, relation, distance`.

    The distance is that of the tasks' descriptors, missing for tasks without descriptors.
    """
    tasks = recipe.distribution("test", seed)
    pairs = relate(learner, relation, tasks, n).pairs()
    descriptors = tasks.batch(range(n)).descriptors
    return pairs.assign(
        distance=torch.cdist(descriptors, descriptors).flatten().numpy()
        if descriptors.shape[-1]
        else math.nan
    )


@matplotlib.rc_context(STYLE)
def _heat_maps(relations: pd.DataFrame, seed: int) -> Figure:
    first = relations[relations["seed"] == seed]
    tables = dict(iter(first.groupby("stage", sort=False)))
    matrices = {stage: _square(rows, "relation") for stage, rows in tables.items()}
    distances = _square(tables[LEARNED], "distance")
    if np.isfinite(distances).all():
        matrices["known"] = 1 - distances / distances.max()
    order = leaves_list(cluster_tree(matrices.get("known", matrices[LEARNED])))
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    grid = figure.subplots(1, len(matrices))
    smallest = 0 if min(matrix.min() for matrix in matrices.values()) >= 0 else -1
    colors = ScalarMappable(Normalize(smallest, 1), cmap="cividis")
    for axes, (stage, matrix) in zip(grid, matrices.items(), strict=True):
        axes.imshow(matrix[np.ix_(order, order)], cmap=colors.cmap, norm=colors.norm)
        others = matrix[~np.eye(len(matrix), dtype=bool)]
        span = f"{others.min():.2f} to {others.max():.2f}".replace("-", "−")
        axes.set_title(f"{stage}\n{span}" if stage != "known" else "nearness of descriptors\n")
        axes.set(xticks=[], yticks=[], xlabel="test tasks")
    figure.colorbar(colors, ax=list(grid), label="relation m", shrink=0.8)
    return figure


def _square(rows: pd.DataFrame, column: str) -> np.ndarray:
    return rows.pivot_table(index="row", columns="column", values=column, dropna=False).to_numpy()
