"""What is written about a cell: the scores of what was trained, and its description."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from metalens.data import TaskDistribution
from metalens.evaluation import evaluate, mean_scores, undefined_scores
from metalens.experiments.arms import Cell
from metalens.experiments.outcomes import Outcome
from metalens.experiments.recipe import Recipe
from metalens.learners import GradientLearner, Learner
from metalens.objective import Objective
from metalens.regularizers import TRLearner
from metalens.relations.relate import relate
from metalens.training.fit import processes_of
from metalens.training.run import TrainingRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

N_CURVES = 4  # test tasks drawn in the report
N_RELATED = 20  # test tasks in the relation map

RESULT_COLUMNS = [
    "recipe", "learner", "regularizers", "seed", "split", "domain", "task", "source", "metric", "value",
]  # fmt: skip
CURVE_COLUMNS = ["learner", "regularizers", "seed", "step", "split", "metric", "value"]


def score(recipe: Recipe, cell: Cell, run: TrainingRun, facts: dict[str, Any], fabric: Fabric) -> Outcome:
    """Score what was trained, and describe it where it is of the first seed."""
    (arm, seed), objective = cell, run.objective.eval()
    labels = {"learner": arm.learner, "regularizers": arm.regularizers, "seed": seed}
    begin = time.perf_counter()
    test = recipe.distribution("test", seed)
    if run.has_weights:
        scores = evaluate(
            objective.learner,
            test,
            n_tasks=recipe.n_test_tasks,
            batching=objective.batching,
            chunk=objective.chunk,
            processes=processes_of(fabric),
        )
    else:
        scores = undefined_scores(test, n_tasks=recipe.n_test_tasks)
    is_described = run.has_weights and seed == recipe.seeds[0]
    curves = _curves(objective.learner, recipe, seed) if is_described else []
    relations = _relations(objective, recipe, seed) if is_described else []
    return Outcome(
        cell,
        objective.state_dict(),
        mean_scores(scores),
        {**labels, **facts, "test_seconds": time.perf_counter() - begin},
        {
            "results": [_results(scores.assign(recipe=recipe.name, **labels), test)],
            "metrics": [run.curve.table().assign(**labels)[CURVE_COLUMNS]],
            "curves": [frame.assign(**labels) for frame in curves],
            "relations": [frame.assign(**labels) for frame in relations],
        },
    )


def _results(scores: pd.DataFrame, test: TaskDistribution) -> pd.DataFrame:
    """Return the scores with the columns of the results, those of names only where there are names."""
    names = {
        "domain": [test.domain(task) or "" for task in scores["task"]],
        "source": [test.source(task) or "" for task in scores["task"]],
    }
    splits = ["test_unseen" if domain in test.unseen_domains else "test" for domain in names["domain"]]
    labeled = scores.assign(split=splits, **names)[RESULT_COLUMNS]
    return labeled.drop(columns=[name for name, of_tasks in names.items() if not any(of_tasks)])


def _curves(learner: Learner, recipe: Recipe, seed: int) -> Iterator[pd.DataFrame]:
    """Yield the curves of a few test tasks before and after adaptation, for learners that have a before."""
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


def _relations(objective: Objective, recipe: Recipe, seed: int) -> Iterator[pd.DataFrame]:
    """Yield the relation map of a few test tasks, for arms that learn one."""
    for regularizer in objective.regularizers:
        if isinstance(regularizer, TRLearner) and regularizer.relations != "uniform":
            yield relate(objective.learner, regularizer, recipe.distribution("test", seed), N_RELATED).pairs()
