"""Train and test the methods of one family on one fold of one table, in a process of its own.

python -m tools.tables.cell exam 0 lightgbm runs/bench-tables/exam/fold0/lightgbm.json --k 0 10 --draws 1
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metalens.io.files import atomic_path
from metalens.io.provenance import commit
from tools.tables import scores
from tools.tables.family import FAMILIES, Family, Fitted, NotApplicableError
from tools.tables.problems import PROBLEMS, Problem, load
from tools.tables.protocol import episodes, split, targets


def main() -> None:
    """Write what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", choices=PROBLEMS)
    parser.add_argument("fold", type=int)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--k", nargs="+", type=int, required=True)
    parser.add_argument("--draws", type=int, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of convergence, by the thousand
    problem = PROBLEMS[options.table]
    found = run(FAMILIES[options.family], problem, load(problem), options.fold, options.k, options.draws)
    write(options.out, found | {"k": options.k, "draws": options.draws})


def write(path: Path, found: dict[str, Any]) -> None:
    """Write a file of results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(found, indent=1), encoding="utf-8")


def run(
    family: Family, problem: Problem, frame: pd.DataFrame, number: int, shots: Sequence[int], draws: int
) -> dict[str, Any]:
    """Return the scores of a family's methods on the held-out tasks of a fold, times and failures.

    Returns:
        `methods` by label, each with `fit` and `predict` (seconds of a processor; of the latter per task),
        `note`, by number of known rows `errors` and why it is `absent`, and `scores`: one mapping for each
        task, number and draw. Of a training that failed `error`.
    """
    fold, held_out = split(frame, problem, number)
    draws = draws if problem.order is None else 1
    result: dict[str, Any] = {"commit": commit(), "methods": {}, "error": None}
    start, used = time.process_time(), 0.0
    methods = iter(())
    try:
        methods = family.load()(fold)
        while (fitted := next(methods, None)) is not None:
            used += time.process_time() - start
            tested = test(fitted, problem, held_out, fold.classes, shots, draws)
            result["methods"][fitted.label] = {"fit": used, "note": fitted.note, **tested}
            start = time.process_time()
    except Exception as error:  # of any library: it is a result
        result["error"] = described(error)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def test(
    fitted: Fitted,
    problem: Problem,
    held_out: pd.DataFrame,
    classes: list[str],
    shots: Sequence[int],
    draws: int,
) -> dict[str, Any]:
    """Return the scores of a trained method, its seconds per task, and why it failed."""
    rows: list[dict[str, Any]] = []
    errors: dict[int, str] = {}
    absent: dict[int, str] = {}
    seconds, n_tasks = 0.0, 0
    for k, draw in ((k, draw) for k in shots for draw in range(draws)):
        batch = list(episodes(held_out, problem, k, draw))
        if not batch or k in errors or k in absent:
            continue
        start = time.process_time()
        try:
            predictions = fitted.predict(batch)
        except NotApplicableError as reason:
            absent[k] = str(reason)
            continue
        except Exception as error:  # of any library: it is a result
            errors[k] = described(error)
            continue
        seconds, n_tasks = seconds + time.process_time() - start, n_tasks + len(batch)
        limits = (fitted.limits(batch) if fitted.limits else []) or [None] * len(batch)
        try:
            for episode, predicted, of_task in zip(batch, predictions, limits, strict=True):
                truth = targets(problem, held_out.loc[episode.query.index], classes)
                known = targets(problem, episode.support, classes)
                found = score(problem, np.asarray(predicted, dtype=float), truth, known)
                found |= {} if of_task is None else scores.of_limits(of_task, truth)
                rows.append({"task": episode.task, "k": k, "draw": draw, "n": len(truth), **found})
        except ValueError as error:
            errors[k] = described(error)
    rows = [row for row in rows if row["k"] not in errors]
    return {"predict": seconds / max(n_tasks, 1), "absent": absent, "errors": errors, "scores": rows}


def score(problem: Problem, predicted: np.ndarray, truth: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Return the scores of the predictions for a task.

    Raises:
        ValueError: they are not one finite number for each row.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predictions have the shape {predicted.shape} in place of {truth.shape}")
    if not np.isfinite(predicted).all():
        raise ValueError(f"{(~np.isfinite(predicted)).sum()} of {len(predicted)} predictions are not finite")
    if problem.kind == "class":
        return scores.of_chances(predicted, truth)
    return scores.of_numbers(predicted, truth, known)


def described(error: BaseException) -> str:
    """Return the kind of an error and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


if __name__ == "__main__":
    main()
