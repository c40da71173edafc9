"""GPBoost: boosted trees and a random intercept of every task, trained together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tools.tables.design import Design
from tools.tables.family import Fitted
from tools.tables.protocol import Fold, targets

MOST_ROUNDS, PATIENCE = 1000, 20
SHARE = 0.2  # of the rows of training tasks, on which rounds are chosen


def gpboost(fold: Fold) -> Iterator[Fitted]:
    """Yield GPBoost with a random intercept, fitted to the training tasks and the known rows of all new ones.

    The number of rounds has the least error on a fifth of the rows of the training tasks.
    """
    design = Design(fold)
    rng = np.random.default_rng(0)
    held_out = rng.random(len(fold.train)) < SHARE
    first = _train(design, fold, fold.train[~held_out], MOST_ROUNDS, fold.train[held_out])
    rounds = max(first.best_iteration, 1)

    def predict(episodes):
        rows = pd.concat([fold.train, *(episode.support for episode in episodes)])
        model = _train(design, fold, rows, rounds)
        found = []
        for episode in episodes:
            names = np.full(len(episode.query), episode.task)
            answer = model.predict(
                data=design.matrix(episode.query), group_data_pred=names, pred_latent=False, num_threads=1
            )
            found.append(np.asarray(answer["response_mean"], dtype=float))
        return found

    yield Fitted("GPBoost, random intercept", predict, f"{rounds} rounds")


def _train(
    design: Design, fold: Fold, rows: pd.DataFrame, rounds: int, valid: pd.DataFrame | None = None
) -> Any:
    import gpboost as gpb

    names, task = rows[fold.problem.task].to_numpy(str), fold.problem.task
    likelihood = "gaussian" if fold.problem.kind == "number" else "bernoulli_logit"
    effects = gpb.GPModel(group_data=names, likelihood=likelihood, num_parallel_threads=1)
    data = gpb.Dataset(design.matrix(rows), targets(fold.problem, rows, fold.classes))
    others = {}
    if valid is not None:
        effects.set_prediction_data(group_data_pred=valid[task].to_numpy(str))
        truth = targets(fold.problem, valid, fold.classes)
        others["valid_sets"] = data.create_valid(design.matrix(valid), label=truth)
        others["early_stopping_rounds"] = PATIENCE
    settings = {
        "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 20, "verbose": -1, "num_threads": 1,
        "seed": 0, "feature_fraction": 0.3 if design.molecules else 1.0,
    }  # fmt: skip
    return gpb.train(
        params=settings,
        train_set=data,
        gp_model=effects,
        num_boost_round=rounds,
        verbose_eval=False,
        **others,
    )
