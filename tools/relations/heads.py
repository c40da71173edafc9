"""What relations are worth to a meta-trained deep kernel.

    python -m tools.relations.heads --seeds 1 2

`DeepMultiTaskGP` with learned relations to the data of known tasks, with equal ones and with none, trained
alike, beside `MultiTaskGP`, which has no network. Results are cached in the folder of --out.
"""

from __future__ import annotations

from functools import partial
from typing import get_args

import pandas as pd

from metalens import DeepMultiTaskGP, MultiTaskGP, mlp
from metalens.learners.baselines.task_covariance import Related
from tools.relations.cell import MOST_QUERIES, divided
from tools.relations.runner import run_study
from tools.relations.trained import Episodes, skills, train_and_test
from tools.tables.problems import Problem

SHOTS = {"kiba": 16, "remifentanil": 5, "parkinsons": 10, "exam": 10}
ARMS = [*reversed(get_args(Related)), "no network"]
PAIRS = [("learned", "none"), ("learned", "equal"), ("learned", "no network")]
OUTER_LR = 3e-3


def measure(problem: Problem, k: int, seed: int, fold: int) -> pd.DataFrame:
    """Return the skills of all arms on the tasks of a fold: rows `task, arm, skill`."""
    train, _, test = division = divided(problem, k, seed, fold)
    kernel = "rbf" if problem.smiles is None else "tanimoto"
    parts = []
    for relations in get_args(Related):
        build = partial(learner, domain_kernel=kernel, relations=relations)
        found = train_and_test(build, Episodes, division, seed, OUTER_LR)
        parts.append(found.assign(arm=relations))
    process = MultiTaskGP(1)
    process.prepare(train)
    found = skills(process, Episodes(test, MOST_QUERIES))
    return pd.concat([*parts, found.assign(arm="no network")])


def learner(n_inputs: int, **settings: str) -> DeepMultiTaskGP:
    """Return the learner."""
    return DeepMultiTaskGP(mlp(n_inputs, hidden=[64, 64]), n_outputs=1, n_rows=64, **settings)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    run_study("tools.relations.heads", __doc__, measure, SHOTS, ARMS, PAIRS)
