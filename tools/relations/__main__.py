"""What relations between tasks are worth on every table, and at most could be.

    python -m tools.relations --seeds 1 2

The data lie in the folder that METALENS_DATA names. Results are cached in the folder of --out, one file for
each table, seed and fold: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from pathlib import Path

import pandas as pd

from tools.relations.cell import N_FOLDS, measure
from tools.relations.page import figure, tables
from tools.speed.machine import metadata
from tools.tables.problems import PROBLEMS

SHOTS = {
    "chickweight": 5, "sleepstudy": 3, "theoph": 3, "remifentanil": 5, "pbcseq": 3, "produc": 5,
    "cigar": 5, "exam": 10, "chem97": 10, "insteval": 10, "parkinsons": 10, "kiba": 16, "chembl": 16,
}  # fmt: skip


def main() -> None:
    """Run what is missing, and print the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of divisions and known rows")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(N_FOLDS)))
    parser.add_argument("--out", type=Path, default=Path("runs/relations"))
    parser.add_argument("--figure", type=Path, default=None, help="a file for the figure")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in options.tables:
        for seed in options.seeds:
            for fold in options.folds:
                path = options.out / f"{name}-{seed}-{fold}.csv"
                if not path.exists():
                    start = time.process_time()
                    rows = measure(PROBLEMS[name], SHOTS[name], seed, fold)
                    seconds = time.process_time() - start
                    rows.assign(table=name, seed=seed, fold=fold, seconds=seconds).to_csv(path, index=False)
                    print(f"{path.stem}: {seconds:.0f} s", file=sys.stderr, flush=True)
                found.append(pd.read_csv(path, dtype={"task": str}))
    command = f"python -m tools.relations {shlex.join(sys.argv[1:])}".strip()
    rows = pd.concat(found)
    print(tables(rows, SHOTS))
    if options.figure is not None:
        figure(rows).savefig(options.figure, metadata={"Date": None})
    versions = metadata(("torch", "numpy"))["versions"]
    print(f"\n`{command}`, {datetime.date.today().isoformat()}, {versions}")


if __name__ == "__main__":
    main()
