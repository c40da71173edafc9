"""Read damaged and hostile files, and check that each ends well or in one sentence.

    python -m tools.fuzz --inputs 100000 --seed 0

Every reader gets intact files, one of which was changed. Half of the inputs come from strategies of
Hypothesis, which know its kind: cells of a table, values of a tree, members of an archive, headers of
tensors. The others come from atheris, which changes bytes and keeps what reaches new lines of MetaLens. Where
atheris is not installed (`pip install atheris`, for Linux), Hypothesis changes bytes in its place, without
looking at lines, and the output says so.

A reader runs as a command would, in a process with a limit on memory, a limit on time, and a watch on every
write. Found is whatever would be a traceback, more than one line, a write outside of the output folder, a
process, a connection, a pickle, a hang, or more than `MEMORY` bytes. The inputs of findings are kept.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import shutil
import sys
import tempfile
from pathlib import Path

from tools.fuzz.session import work

ENGINES = ("hypothesis", "atheris")
# How many of 100 inputs a reader gets; those that take long get fewer.
SHARES = {
    "configuration": 10, "calls": 16, "tables": 16, "new tasks": 6, "images": 14, "arrays": 20,
    "checkpoints": 6, "runs": 3, "unfinished runs": 5, "models": 4,
}  # fmt: skip
PROCESSES = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument(
        "--kept", type=Path, default=Path("fuzz-findings"), help="folder for inputs that are found"
    )
    options = parser.parse_args()
    options.kept.mkdir(exist_ok=True)
    if "atheris" in options.engine and importlib.util.find_spec("atheris") is None:
        print("atheris is not installed; Hypothesis changes bytes in its place, without looking at lines")
    n_findings, n_inputs = 0, 0
    for target in options.target:
        for engine in options.engine:
            share = SHARES[target] / sum(SHARES[name] for name in options.target) / len(options.engine)
            with tempfile.TemporaryDirectory() as name:
                folder, kept = Path(name) / "here", options.kept.resolve()
                n = max(1, round(share * options.inputs))
                process = PROCESSES.Process(target=work, args=(target, engine, n, options.seed, folder, kept))
                process.start()
                process.join()
                assert [*Path(name).iterdir()] == [folder], "something was written outside"
                results = folder / "results.json"
                if process.exitcode or not results.is_file():
                    last = kept / f"{target.replace(' ', '-')}-killed"
                    shutil.copytree(folder / "files", last, dirs_exist_ok=True)
                    print(f"{target}, {engine}: the process ended with {process.exitcode} [{last}]")
                    n_findings += 1
                    continue
                facts = json.loads(results.read_text())
            n_findings, n_inputs = n_findings + facts["findings"], n_inputs + facts["inputs"]
            print(f"{target}, {engine}: {facts['inputs']} inputs, {facts['findings']} findings, "
                  f"{facts['seconds']:.0f} s", flush=True)  # fmt: skip
    print(f"{n_inputs} inputs, {n_findings} findings")
    sys.exit(n_findings > 0)


if __name__ == "__main__":
    main()
