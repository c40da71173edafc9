"""Does an in-context learner gain from rows of related tasks?

    python -m tools.relations.retrieval --seeds 1 --folds 0 1

`TNPD` reads the known rows of a new task and 64 rows of known tasks, each with a mark of whose it is: of the
four tasks with the largest weights by regression ("nearest"), of four tasks at random, or of all tasks. It is
trained with rows that are chosen in the same way. Results are cached in the folder of --out.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalens import TNPD, MultiTaskGP, TableTasks, Task, mlp
from metalens.tasks import Examples
from tools.relations.bank import Bank, Rows, Settings
from tools.relations.cell import divided
from tools.relations.runner import run_study
from tools.relations.trained import Episodes, train_and_test
from tools.tables.problems import Problem

How = Literal["none", "nearest", "random", "all"]
SHOTS = {"kiba": 16, "parkinsons": 10, "exam": 10}
N_RELATED, N_ROWS = 4, 64
PRIOR = Settings(related=1.0, own=0.3)
PAIRS = [("nearest", "none"), ("nearest", "random"), ("nearest", "all")]


class Retrieved(Episodes):
    """Tasks whose support has rows of known tasks as well; the last input is 1 for rows of the task's own.

    Args:
        tasks: a table's tasks.
        most_queries: of a task.
        bank: of the known tasks; a task itself is left out.
        how: the rows are chosen.
    """

    def __init__(self, tasks: TableTasks, most_queries: int, *, bank: Bank, how: How) -> None:
        super().__init__(tasks, most_queries)
        self.bank, self.how = bank, how

    def drawn(self, index: int) -> Task:
        support, query = super().drawn(index)[:2]
        rows = [_marked(*support, 1)]
        if self.how != "none":
            rng = np.random.default_rng([index, self.seed])
            rows.append(self._others(self.task_name(index), support, rng))
        return Task(Examples(*map(torch.cat, zip(*rows, strict=True))), _marked(*query, 1))

    def _others(self, name: str, support: Examples, rng: np.random.Generator) -> Examples:
        """Return rows of known tasks, marked by 0."""
        known = [other for other in self.bank.rows if other != name]
        if self.how == "nearest":
            weights = self.bank.weights(Rows.of(support), PRIOR, known)
            known = [known[place] for place in np.argsort(-weights)[:N_RELATED]]
        elif self.how == "random":
            known = rng.choice(known, N_RELATED, replace=False).tolist()
        x, y = (np.concatenate(part) for part in zip(*(self.bank.rows[name] for name in known), strict=True))
        chosen = rng.permutation(len(y))[:N_ROWS]
        return _marked(*(torch.from_numpy(part[chosen]).float() for part in (x, y[:, None])), 0)


def _marked(x: Tensor, y: Tensor, mark: int) -> Examples:
    return Examples(torch.cat([x, torch.full_like(x[:, :1], mark)], dim=1), y)


def measure(problem: Problem, k: int, seed: int, fold: int) -> pd.DataFrame:
    """Return the skills of all arms on the tasks of a fold: rows `task, arm, skill`."""
    division = divided(problem, k, seed, fold)
    process = MultiTaskGP(1, relations="equal")
    process.prepare(division[0])
    bank, parts = Bank(process, division[0]), []
    for how in get_args(How):
        episodes = partial(Retrieved, bank=bank, how=how)
        parts.append(train_and_test(learner, episodes, division, seed).assign(arm=how))
    return pd.concat(parts)


def learner(n_inputs: int) -> TNPD:
    """Return the learner."""
    return TNPD(mlp(n_inputs, hidden=[64, 64]), n_outputs=1, min_std=0.5)


if __name__ == "__main__":
    run_study("tools.relations.retrieval", __doc__, measure, SHOTS, get_args(How), PAIRS)
