"""The version of the source code of a run."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Return the commit of the source code, or `None` outside of a checkout of MetaLens.

    >>> commit() is None or len(commit()) >= 12
    True
    """
    source = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(source), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != source:
            return None  # installed somewhere inside another repository
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return None
