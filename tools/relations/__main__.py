"""What relations between tasks are worth on every table, and at most could be.

    python -m tools.relations --seeds 1 2

The data lie in the folder that METALENS_DATA names. Results are cached in the folder of --out, one file for
each table, seed and fold: a run that was stopped goes on where it was.
"""

import argparse
from pathlib import Path

from tools.relations.cell import ARMS, measure
from tools.relations.page import PAIRS, figure
from tools.relations.runner import run_study

SHOTS = {
    "chickweight": 5, "sleepstudy": 3, "theoph": 3, "remifentanil": 5, "pbcseq": 3, "produc": 5,
    "cigar": 5, "exam": 10, "chem97": 10, "insteval": 10, "parkinsons": 10, "kiba": 16, "chembl": 16,
}  # fmt: skip


def main() -> None:
    """Run what is missing, and print the tables of the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path, default=None, help="a file for the figure")
    rows, options = run_study("tools.relations", __doc__, measure, SHOTS, ARMS, PAIRS, parser)
    if options.figure is not None:
        figure(rows).savefig(options.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
