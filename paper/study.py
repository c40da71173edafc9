"""A study: a question about a method, answered by tidy rows, figures and sentences."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure

from metalens.errors import MetaLensError
from metalens.experiments.experiment import Watcher, versions
from metalens.experiments.store import FAILURES
from metalens.io.files import MANIFEST, atomic_path
from metalens.io.provenance import commit

Tables = dict[str, pd.DataFrame]


class Drawing(NamedTuple):
    """A figure with the words below it."""

    figure: Figure
    caption: str


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """A question with everything that determines its answer, as plain values.

    Findings and figures depend on the study's tables and settings alone, so that a report can be rewritten
    from the files of a finished study.

    Args:
        name: on the command line.
        description: one line.
        seeds: one replication each.
    """

    name: str
    description: str
    seeds: list[int] = field(default_factory=lambda: list(range(10)))

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise MetaLensError(f"seeds must name at least one, each once and 0 or more, got {self.seeds}.")

    @property
    def n_trainings(self) -> int:
        """Number of trainings that are reported to a watcher."""
        return len(self.seeds)

    @abstractmethod
    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Run the experiment; return its tables by name, of which `"summary"` is shown in the report.

        Args:
            folder: for whatever else is to be kept.
            watcher: progress callbacks.
        """

    @abstractmethod
    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        """Return the figures by name."""

    @abstractmethod
    def findings(self, tables: Tables) -> list[str]:
        """Return what was found, in plain sentences that follow from intervals."""

    def cautions(self, tables: Tables) -> list[str]:
        """Return what limits that, in plain sentences."""
        return []


def run_study(study: Study, folder: Path, *, command: str = "", watcher: Watcher | None = None) -> None:
    """Run a study, and write its tables and manifest into a folder.

    Args:
        study: what to run.
        folder: an empty folder, filled with `manifest.json` and a CSV file for every table.
        command: the command that repeats the study, for the manifest.
        watcher: progress callbacks.

    Raises:
        MetaLensError: the study cannot be assembled.
        DivergenceError: every training of a part diverged.
    """
    started, clock, source = datetime.now(UTC), time.perf_counter(), commit()
    tables = study.measure(folder, watcher or Watcher())
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    manifest = {
        "metalens": version("metalens"),
        "study": study.name,
        "description": study.description,
        "command": command,
        "configuration": asdict(study),
        "tables": list(tables),
        FAILURES: [],  # a study with a failure ends without a manifest
        "versions": versions(),
        "commit": source,
        "threads": torch.get_num_threads(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - clock,
    }
    with atomic_path(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
