"""Measure one part other than the comparison of outer steps, in a process of its own.

    python -m tools.speed.extras evaluation 1 measured.json 15 0.3

The arguments are the part, the number of threads, the file to write, the rounds and the seconds of a batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tools.speed import differentiation, evaluation, profile, regularized, replicas, scaling, startup
from tools.speed.machine import limit_threads

PARTS = {
    "evaluation": evaluation.measure,
    "trlearner": regularized.measure,
    "replicas": replicas.measure,
    "startup": startup.measure,
    "profile": profile.measure,
    "scaling": scaling.measure,
    "differentiation": differentiation.measure,
}
ON_ALL_CORES = {"replicas"}  # where a single thread is not the question

if __name__ == "__main__":
    _, part, threads, out, rounds, seconds = sys.argv
    limit_threads(int(threads))
    Path(out).write_text(json.dumps(PARTS[part](int(rounds), float(seconds))), encoding="utf-8")
