"""Time MetaLens and its peers, and write the tables of the performance page.

    make bench
    python -m tools.speed --parts steps --workloads sinusoid-maml-1 --quick --page - --out raw.json

The second form is for an environment that has the peers (`tools/speed/requirements.txt`); those that are
not installed are left out. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.speed import aims
from tools.speed.extras import ON_ALL_CORES, PARTS
from tools.speed.implementation import IMPLEMENTATIONS, SLOW
from tools.speed.machine import ROOT, metadata, thread_environment
from tools.speed.memory import ENVIRONMENT, PROCESS
from tools.speed.report import FIGURE, extra_tables, origin, replace_tables, step_tables
from tools.speed.scaling import draw
from tools.speed.workloads import WORKLOADS

ALL_PARTS = ["steps", "memory", *PARTS]


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=ALL_PARTS, default=ALL_PARTS)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--without", nargs="*", choices=IMPLEMENTATIONS, default=SLOW, help="not to be timed on images"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="each in its own process")
    parser.add_argument("--rounds", type=int, default=9, help="everybody is timed once in each")
    parser.add_argument("--quick", action="store_true", help="few and short rounds, to see it work")
    parser.add_argument("--page", default="docs/performance.md", help="has two markers; - prints the tables")
    parser.add_argument("--out", type=Path, help="file for all times, as JSON")
    options = parser.parse_args()
    machine = metadata()
    rounds, seconds = (3, 0.1) if options.quick else (options.rounds, 0.5)
    steps = []
    if "steps" in options.parts:
        steps = [
            child("measure", n, rounds, seconds, after=[*options.workloads, "-", *options.without])
            for n in options.threads
        ]
    memory = {}
    if steps and "memory" in options.parts:
        memory = {name: peaks(name, list(run["times"])) for name, run in steps[0]["workloads"].items()}
    threads = {
        part: max(options.threads) if part in ON_ALL_CORES else options.threads[0]
        for part in PARTS
        if part in options.parts
    }
    extras = {part: child("extras", n, rounds, seconds, before=[part]) for part, n in threads.items()}
    if "scaling" in extras:
        draw(extras["scaling"], ROOT / "docs" / FIGURE)
    if options.out is not None:
        everything = {"machine": machine, "steps": steps, "memory": memory, "extras": extras}
        options.out.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    command = f"python -m tools.speed {shlex.join(sys.argv[1:])}".strip()
    text = "\n".join(
        [
            *origin(machine, datetime.date.today().isoformat(), command),
            *aims.table(steps, extras),
            *(step_tables(steps, memory) if steps else []),
            *extra_tables(extras, threads),
        ]
    )
    if options.page == "-":
        print(text)
    else:
        replace_tables(Path(options.page), text)


def child(
    module: str,
    threads: int,
    rounds: int,
    seconds: float,
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Any:
    """Return what a process of its own measured; end where it ended with a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        arguments = [*before, str(threads), str(out), str(rounds), str(seconds), *after]
        command = [sys.executable, "-m", f"tools.speed.{module}", *arguments]
        if subprocess.run(command, cwd=ROOT, env=thread_environment(threads)).returncode != 0:
            sys.exit("Nothing was written.")
        return json.loads(out.read_text(encoding="utf-8"))


def peaks(workload: str, names: list[str]) -> dict[str, float]:
    """Return the peak memory of everybody, or nothing where the system does not tell."""
    if not (PROCESS / "clear_refs").exists():
        return {}
    environment = thread_environment(1) | ENVIRONMENT
    command = [sys.executable, "-m", "tools.speed.memory", workload]
    return {
        name: float(subprocess.check_output([*command, name], cwd=ROOT, env=environment, text=True))
        for name in names
    }


if __name__ == "__main__":
    main()
