"""Does an in-context learner gain from rows of related tasks?

    python -m tools.relations.retrieval --seeds 1 --folds 0 1

`TNPD` reads the known rows of a new task and 64 rows of known tasks, each with a mark of whose it is: of the
four tasks with the largest weights by regression ("nearest"), of four tasks at random, or of all tasks. It is
trained with rows that are chosen in the same way. Results are cached in the folder of --out.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalens import TNPD, MultiTaskGP, Objective, TableTasks, Task, TaskDistribution, Validation, fit, mlp
from metalens.tasks import Examples, stack_trimmed
from tools.relations.bank import Bank, Rows, Settings
from tools.relations.cell import MOST_QUERIES, N_DRAWS, N_FOLDS, divided, skill
from tools.relations.page import tables
from tools.tables.problems import PROBLEMS

How = Literal["none", "nearest", "random", "all"]
SHOTS = {"kiba": 16, "parkinsons": 10, "exam": 10}
N_RELATED, N_ROWS = 4, 64
N_QUERY = 20  # of a task in training
N_TRAIN = 2000  # different draws of training tasks
STEPS, VALIDATE_EVERY = 1000, 100
PRIOR = Settings(related=1.0, own=0.3)
PAIRS = [("nearest", "none"), ("nearest", "random"), ("nearest", "all")]


class Retrieved(TaskDistribution):
    """Tasks whose support has rows of known tasks as well; the last input is 1 for rows of the task's own.

    Args:
        tasks: a table's tasks.
        bank: of the known tasks; a task itself is left out.
        how: the rows are chosen.
        most_queries: of a task; those after it are left out.
    """

    equal_sizes = False

    def __init__(self, tasks: TableTasks, bank: Bank, how: How, most_queries: int) -> None:
        super().__init__(tasks.split, seed=tasks.seed)
        self.tasks, self.bank, self.how, self.most_queries = tasks, bank, how, most_queries
        self.draw = cache(self._draw)

    def __getitem__(self, index: int) -> Task:
        return self.draw(index % N_TRAIN)

    def task_name(self, index: int) -> str:
        return self.tasks.task_name(index % N_TRAIN)

    def batch(self, indices: Sequence[int]) -> Task:
        return stack_trimmed([self[number] for number in indices])

    def _draw(self, index: int) -> Task:
        task = self.tasks[index]
        support, query = _marked(*task.support, 1), _marked(*task.query, 1)
        if self.how != "none":
            others = self._others(
                self.task_name(index), task.support, np.random.default_rng([index, self.seed])
            )
            support = Examples(*map(torch.cat, zip(support, others, strict=True)))
        return Task(support, Examples(*(part[: self.most_queries] for part in query)))

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
    x = x.flatten(1)
    return Examples(torch.cat([x, torch.full_like(x[:, :1], mark)], dim=1), y)


def measure(name: str, seed: int, fold: int) -> pd.DataFrame:
    """Return the skills of all arms on the tasks of a fold: rows `task, arm, skill`, means over draws."""
    train, val, test = divided(PROBLEMS[name], SHOTS[name], seed, fold)
    process = MultiTaskGP(1, relations="equal")
    process.prepare(train)
    bank, n_inputs = Bank(process, train), train[0].support.x.flatten(1).shape[1]
    rows = []
    for how in get_args(How):
        torch.manual_seed(seed)
        learner = TNPD(mlp(n_inputs + 1, hidden=[64, 64]), n_outputs=1, min_std=0.5)
        held_out = Retrieved(val, bank, how, MOST_QUERIES)
        validation = Validation(held_out, n_tasks=N_DRAWS * len(val.task_names), every=VALIDATE_EVERY)
        tasks = Retrieved(train, bank, how, N_QUERY)
        fit(Objective(learner), tasks, validation=validation, steps=STEPS, meta_batch_size=8, seed=seed)
        tested = Retrieved(test, bank, how, MOST_QUERIES)
        for number in range(len(test.task_names) * N_DRAWS):
            task = tested[number]
            with torch.no_grad():
                predicted = learner(task.support)(task.query.x)[:, 0].numpy()
            rows.append((test.task_name(number), how, skill(predicted, task.query.y[:, 0].numpy())))
    frame = pd.DataFrame(rows, columns=["task", "arm", "skill"])
    return frame.groupby(["task", "arm"], sort=False)["skill"].mean().reset_index()


def main() -> None:
    """Run what is missing, and print the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of divisions and known rows")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(N_FOLDS)))
    parser.add_argument("--out", type=Path, default=Path("runs/retrieval"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = []
    for name in options.tables:
        for seed in options.seeds:
            for fold in options.folds:
                path = options.out / f"{name}-{seed}-{fold}.csv"
                if not path.exists():
                    start = time.process_time()
                    rows = measure(name, seed, fold)
                    seconds = time.process_time() - start
                    rows.assign(table=name, seed=seed, fold=fold, seconds=seconds).to_csv(path, index=False)
                    print(f"{path.stem}: {seconds:.0f} s", file=sys.stderr, flush=True)
                found.append(pd.read_csv(path, dtype={"task": str}))
    print(tables(pd.concat(found), SHOTS, get_args(How), PAIRS))


if __name__ == "__main__":
    main()
