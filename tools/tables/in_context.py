"""Compare a neural process with R2D2 on tables, and print the table of a page.

    python -m tools.tables.in_context --out runs/in-context

Both are trained by `MetaRegressor` on the training tasks of a fold, with the same settings, and adapt to the
same rows of the same held-out tasks, see `tools.tables.protocol`. Scores are kept in the folder of --out, one
file for each table and fold, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from metalens import MetaRegressor
from metalens.statistics.comparisons import paired_differences
from tools.tables import scores
from tools.tables.ours import alone, predict
from tools.tables.problems import PROBLEMS, Problem, load
from tools.tables.protocol import N_FOLDS, episodes, split, targets

TABLES = ("remifentanil", "chickweight", "exam", "produc", "parkinsons")
LEARNERS = {"TNPD": "TNPD", "R2D2": "R2D2(prior_mean=True)"}
SETTINGS = {"steps": 6000, "patience": 20, "fallback": False}
SHOTS = (0, 3, 5, 10)


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=PROBLEMS, default=list(TABLES))
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(N_FOLDS)))
    parser.add_argument("--draws", type=int, default=3, help="of the known rows")
    parser.add_argument("--out", type=Path, default=Path("runs/in-context"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = []
    for fold in options.folds:
        for table in options.tables:
            path = options.out / f"{table}-{fold}.csv"
            if not path.exists():
                run(PROBLEMS[table], fold, options.draws).to_csv(path, index=False)
            parts.append(pd.read_csv(path, dtype={"task": str}))
    print(page(pd.concat(parts)))


def run(problem: Problem, number: int, draws: int) -> pd.DataFrame:
    """Return rows `table, fold, learner, fit, k, draw, task, skill` of one fold."""
    fold, held_out = split(load(problem), problem, number)
    rows = []
    for name, text in LEARNERS.items():
        start = time.process_time()
        model = MetaRegressor(learner=text, baselines=["MeanPredictor"], **SETTINGS)
        model.fit(fold.train, **problem.columns())
        fit, own = time.process_time() - start, alone(model, name)
        for k, draw in ((k, draw) for k in SHOTS for draw in range(draws)):
            for episode in episodes(held_out, problem, k, draw):
                truth = targets(problem, held_out.loc[episode.query.index], [])
                known = targets(problem, episode.support, [])
                found = scores.of_numbers(np.asarray(predict(own, episode), dtype=float), truth, known)
                rows.append((problem.name, number, name, fit, k, draw, episode.task, found["skill"]))
    return pd.DataFrame(rows, columns=["table", "fold", "learner", "fit", "k", "draw", "task", "skill"])


def page(found: pd.DataFrame) -> str:
    """Return the table: mean skills, and the lead of the neural process, paired over tasks."""
    lines = [
        "| table | k | tasks | TNPD | R2D2 | lead of TNPD | seconds of fit |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    for (table, k), rows in found.groupby(["table", "k"]):
        of_task = rows.pivot_table(index="task", columns="learner", values="skill")
        long = of_task[["R2D2", "TNPD"]].melt(ignore_index=False).reset_index()
        arms = {"regularizers": "none", "sampler": "Uniform", "seed": 0, "metric": "r2"}
        (lead,) = paired_differences(long.assign(**arms)).itertuples()
        fit = rows.groupby("learner").fit.mean()
        words = f"{lead.difference:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        means = of_task.mean()
        lines.append(
            f"| {table} | {k} | {len(of_task)} | {means.TNPD:.3f} | {means.R2D2:.3f} "
            f"| {f'**{words}**' if lead.low > 0 or lead.high < 0 else words} "
            f"| {fit.TNPD:.0f} and {fit.R2D2:.0f} |"
        )
    return "\n".join(lines).replace(" -", " −").replace("[-", "[−").replace("**-", "**−")


if __name__ == "__main__":
    main()
