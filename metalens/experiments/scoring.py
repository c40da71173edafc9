"""Score a trained cell: test scores, learning curve, and for the first seed curves and relations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from metalens.data import TaskDistribution
from metalens.evaluation import evaluate, mean_scores, undefined_scores
from metalens.experiments.arms import Cell
from metalens.experiments.recipe import Recipe
from metalens.experiments.store import TABLES, CellResult
from metalens.learners import GradientLearner, Learner
from metalens.relations.relate import relate
from metalens.statistics.arms import ARM
from metalens.training.run import TrainingRun
from metalens.training.train import processes_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

N_CURVES = 4  # test tasks whose curves the report draws
N_RELATED = 20  # test tasks in the relation map

RESULTS = ["recipe", *ARM, "seed", "split", "domain", "task", "source", "metric", "value"]
METRICS = [*ARM, "seed", "step", "split", "metric", "value"]


def score(recipe: Recipe, cell: Cell, run: TrainingRun, facts: dict[str, Any], fabric: Fabric) -> CellResult:
    """Score a trained run on the test tasks; with the first seed, also compute its curves and relations.

    Args:
        recipe: of the experiment.
        cell: what was trained.
        run: with the trained objective and its learning curve.
        facts: of its training, for the manifest.
        fabric: whose processes share the test tasks.
    """
    (arm, seed), objective = cell, run.objective.eval()
    labels = {**arm._asdict(), "seed": seed}
    begin = time.perf_counter()
    test = recipe.distribution("test", seed)
    if run.has_weights:
        scores = evaluate(
            objective.learner, test, n_tasks=recipe.n_test_tasks, batching=objective.batching,
            chunk=objective.chunk, processes=processes_of(fabric),
        )  # fmt: skip
    else:
        scores = undefined_scores(objective.learner, test, n_tasks=recipe.n_test_tasks)
    tables = dict.fromkeys(TABLES, "") | {
        "results": _results(scores.assign(recipe=recipe.name, **labels), test).to_csv(index=False),
        "metrics": run.curve.table().assign(**labels)[METRICS].to_csv(index=False),
    }
    if run.has_weights and seed == recipe.seeds[0]:
        if frames := list(_curves(objective.learner, recipe, seed)):
            tables["curves"] = pd.concat(frames).assign(**labels).to_csv(index=False)
        if objective.relation is not None:  # of arms that learn relations
            pairs = relate(objective.learner, objective.relation, test, N_RELATED).pairs()
            tables["relations"] = pairs.assign(**labels).to_csv(index=False)
    return CellResult(
        cell,
        scores=mean_scores(scores),
        facts={**labels, **facts, "test_seconds": time.perf_counter() - begin},
        is_scored=facts["diverged"] is None or bool(scores["value"].notna().any()),
        tables=tables,
        weights=objective.state_dict(),
    )


def _results(scores: pd.DataFrame, test: TaskDistribution) -> pd.DataFrame:
    """Return the scores with the columns of `RESULTS`, without `domain` or `source` if it is empty."""
    names = {
        "domain": [test.domain(task) or "" for task in scores["task"]],
        "source": [test.source(task) or "" for task in scores["task"]],
    }
    splits = ["test_unseen" if domain in test.unseen_domains else "test" for domain in names["domain"]]
    labeled = scores.assign(split=splits, **names)[RESULTS]
    return labeled.drop(columns=[name for name, of_tasks in names.items() if not any(of_tasks)])


def _curves(learner: Learner, recipe: Recipe, seed: int) -> Iterator[pd.DataFrame]:
    """Yield curves of a few test tasks before and after adaptation by gradient steps."""
    dense = recipe.curve_distribution(seed)
    if dense is None or not isinstance(learner, GradientLearner):
        return
    test = recipe.distribution("test", seed)
    for number in range(N_CURVES):
        parts = {"support": test[number].support, "query": dense[number].query}
        with torch.no_grad():
            model = learner(parts["support"])
            x, y = (tensor.to(learner.device) for tensor in parts["support"])
            start = learner.initial_state(learner.encode(x), y)
            for part, examples in parts.items():
                x, y = (tensor.to(learner.device) for tensor in examples)
                columns = {"x": x, "y": y, "before": learner.predict(start, x), "after": model(x)}
                values = {name: tensor.flatten().tolist() for name, tensor in columns.items()}
                yield pd.DataFrame({"task": number, "part": part, **values})
