"""How long a fresh process takes until it can start to work."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from tools.speed.timing import interleaved

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import metalens": ["-c", "import metalens"],
    "metalens --help": ["-m", "metalens", "--help"],
}


def measure(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every command, in a table."""
    runs = {name: partial(fresh_process, arguments) for name, arguments in COMMANDS.items()}
    return {"A fresh process": interleaved(runs, rounds=rounds, seconds=0.0)}


def fresh_process(arguments: list[str], n: int) -> None:
    """Run Python n times."""
    for _ in range(n):
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
