"""The command line of a study: what is missing runs, and the tables of the page are printed."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from tools.relations.cell import N_FOLDS
from tools.relations.page import tables
from tools.speed.machine import metadata
from tools.tables.problems import PROBLEMS, Problem

Measure = Callable[[Problem, int, int, int], pd.DataFrame]


def run_study(
    module: str,
    description: str | None,
    measure: Measure,
    shots: Mapping[str, int],
    arms: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    parser: argparse.ArgumentParser | None = None,
) -> tuple[pd.DataFrame, argparse.Namespace]:
    """Run what is missing, and print the tables of the page.

    Args:
        module: that is run.
        description: of the command.
        measure: returns rows `task, arm, skill` of a problem, its support rows, a seed and a fold.
        shots: support rows by table.
        arms: in their order.
        pairs: arms whose differences are shown, the second one subtracted.
        parser: with further options.

    Returns:
        All rows, and the options.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description, parser.formatter_class = description, argparse.RawTextHelpFormatter
    parser.add_argument("--tables", nargs="+", choices=shots, default=list(shots))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of divisions and known rows")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(N_FOLDS)))
    parser.add_argument("--out", type=Path, default=Path("runs") / module.replace(".", "-"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # notes on columns, and on small tasks
    torch.set_num_threads(1)
    found = []
    for name in options.tables:
        for seed in options.seeds:
            for fold in options.folds:
                path = options.out / f"{name}-{seed}-{fold}.csv"
                if not path.exists():
                    start = time.process_time()
                    rows = measure(PROBLEMS[name], shots[name], seed, fold)
                    seconds = time.process_time() - start
                    rows.assign(table=name, seed=seed, fold=fold, seconds=seconds).to_csv(path, index=False)
                    print(f"{path.stem}: {seconds:.0f} s", file=sys.stderr, flush=True)
                found.append(pd.read_csv(path, dtype={"task": str}))
    command = f"python -m {module} {shlex.join(sys.argv[1:])}".strip()
    everything = pd.concat(found)
    print(tables(everything, shots, arms, pairs))
    versions = metadata(("torch", "numpy"))["versions"]
    print(f"\n`{command}`, {datetime.date.today().isoformat()}, {versions}")
    return everything, options
