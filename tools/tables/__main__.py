"""Compare MetaLens with what people would use, on a few rows of new groups, and write the page.

    make bench-tables
    python -m tools.tables --quick
    python -m tools.tables --tables exam radon --methods metalens mixed --folds 0 1 --k 10 --draws 1

The latter are for an environment that has the packages (`tools/tables/requirements.txt`); methods of packages
that are not installed are left out. The data lie in the folder that METALENS_DATA names. Results are cached
in the folder of --out, one file for each table, fold and family of methods: a run that was stopped goes on
where it was, and what should be run again is to be deleted there.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.speed.machine import ROOT, metadata, thread_environment
from tools.tables.cell import write
from tools.tables.family import FAMILIES
from tools.tables.page import page
from tools.tables.problems import PROBLEMS
from tools.tables.protocol import N_DRAWS, N_FOLDS, SHOTS
from tools.tables.results import Cell, Selection, cells, failures, is_done

PACKAGES = ("torch", "scikit-learn", "statsmodels", "lightgbm", "catboost", "gpboost", "numpy", "pandas")
QUICK = Selection(["sleepstudy", "radon", "theoph"], [0], list(FAMILIES), [0, 3, 5], 1)


def main() -> None:
    """Run what is missing, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--folds", nargs="+", type=int, choices=range(N_FOLDS), default=list(range(N_FOLDS)))
    parser.add_argument("--k", nargs="+", type=int, default=list(SHOTS), help="known rows of a new task")
    parser.add_argument("--draws", type=int, default=N_DRAWS, help="of the known rows")
    parser.add_argument("--quick", action="store_true", help="three tables, one fold and draw; prints")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds of a family on a fold")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, of a core each")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--only-write", action="store_true", help="write the page from what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-tables"))
    parser.add_argument("--page", default=None, help="- prints it; docs/benchmark-tables.md by default")
    options = parser.parse_args()
    selection = Selection(options.tables, options.folds, options.methods, options.k, options.draws)
    selection = QUICK if options.quick else selection
    selection = selection._replace(families=[n for n in selection.families if FAMILIES[n].is_installed])
    if not options.only_write:
        run(selection, options.out.resolve(), options.workers, options.limit, retry=options.retry)
    command = f"python -m tools.tables {shlex.join(sys.argv[1:])}".strip()
    text = page(selection, options.out, metadata(PACKAGES), datetime.date.today().isoformat(), command)
    where = options.page or ("-" if options.quick else "docs/benchmark-tables.md")
    if where == "-":
        print(text)
    else:
        Path(where).write_text(text, encoding="utf-8")


def run(selection: Selection, folder: Path, workers: int, limit: float, *, retry: bool) -> None:
    """Run what has no results yet, each in its own process on one core.

    Several runs may share a folder: what another one has done by then is left out.
    """

    def one(cell: Cell) -> Cell | None:
        if is_done(cell.read(folder), selection, retry=retry):
            return None
        return child(cell, selection, folder, limit)

    with ThreadPoolExecutor(workers) as pool:
        for cell in filter(None, pool.map(one, cells(selection))):
            found = cell.read(folder) or {"error": "no file", "methods": {}}
            said = "; ".join(failures(found)) or "done"
            print(f"{cell.table}, fold {cell.fold}, {cell.family}: {said}", file=sys.stderr, flush=True)


def child(cell: Cell, selection: Selection, folder: Path, limit: float) -> Cell:
    """Run one cell; a process that ends without results leaves the reason in their place."""
    path = cell.path(folder)
    known = cell.read(folder) or {"k": [], "draws": 0}
    shots = sorted({*selection.k, *known["k"]})
    draws = max(selection.draws, known["draws"])
    command = [sys.executable, "-m", "tools.tables.cell", cell.table, str(cell.fold), cell.family, str(path)]
    command += ["--draws", str(draws), "--k", *map(str, shots)]
    environment = thread_environment(1) | {"METALENS_CACHE": str(folder / "cache")}
    try:
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=limit)
        error = None
        if ended.returncode:
            last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
            error = f"Ended: with {ended.returncode}, {' '.join(last)}"
    except subprocess.TimeoutExpired:
        error = f"Ended: it took longer than {limit:g} s"
    if error is not None:
        nothing = {"commit": None, "methods": {}, "peak_mib": float("nan")}
        write(path, nothing | {"error": error, "k": shots, "draws": draws})
    return cell


if __name__ == "__main__":
    main()
