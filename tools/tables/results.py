"""The cached results: one file for each table, fold and family of methods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tools.tables.family import FAMILIES
from tools.tables.problems import PROBLEMS


class Selection(NamedTuple):
    """What is asked for."""

    tables: Sequence[str]
    folds: Sequence[int]
    families: Sequence[str]
    k: Sequence[int]
    draws: int


class Cell(NamedTuple):
    """The methods of a family on a fold of a table."""

    table: str
    fold: int
    family: str

    def path(self, folder: Path) -> Path:
        """Return the file of its results."""
        return folder / self.table / f"fold{self.fold}" / f"{self.family}.json"

    def read(self, folder: Path) -> dict[str, Any] | None:
        """Return its results; `None` before there are any."""
        path = self.path(folder)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def cells(selection: Selection) -> Iterator[Cell]:
    """Yield what is to be run, fold by fold, so that what is there early is about all tables and methods."""
    for fold in selection.folds:
        for table in selection.tables:
            for family in selection.families:
                if fits(table, family):
                    yield Cell(table, fold, family)


def fits(table: str, family: str) -> bool:
    """Return whether the methods of a family are for a table."""
    problem, methods = PROBLEMS[table], FAMILIES[family]
    return problem.kind in methods.kinds and (problem.smiles is None or methods.molecules)


def is_done(found: dict[str, Any] | None, selection: Selection, *, retry: bool) -> bool:
    """Return whether results hold what is asked for; with `retry` failures do not count as such."""
    if found is None or (retry and failures(found)):
        return False
    return set(selection.k) <= set(found["k"]) and selection.draws <= found["draws"]


def failures(found: dict[str, Any]) -> list[str]:
    """Return what failed."""
    own = [found["error"]] if found["error"] else []
    return own + [
        f"{label} with {k} rows, {message}"
        for label, method in found["methods"].items()
        for k, message in method["errors"].items()
    ]


def scores(selection: Selection, folder: Path) -> pd.DataFrame:
    """Return the cached scores: rows `table, fold, method, task, k, draw, n` and a column for each score."""
    frames = []
    for cell in cells(selection):
        for label, method in ((cell.read(folder) or {}).get("methods") or {}).items():
            rows = pd.DataFrame(method["scores"])
            if len(rows):
                frames.append(rows.assign(table=cell.table, fold=cell.fold, method=label))
    if not frames:
        raise SystemExit(f"{folder} has no scores of what was selected; run it first.")
    found = pd.concat(frames, ignore_index=True)
    return found[found["k"].isin(selection.k) & (found["draw"] < selection.draws)]


def costs(selection: Selection, folder: Path) -> pd.DataFrame:
    """Return rows `table, fold, method, family, fit, predict, peak_mib, note`; seconds of a processor."""
    rows = []
    for cell in cells(selection):
        found = cell.read(folder) or {"methods": {}}
        for label, method in found["methods"].items():
            own = {name: method[name] for name in ("fit", "predict", "note")}
            rows.append({**cell._asdict(), "method": label, "peak_mib": found["peak_mib"], **own})
    return pd.DataFrame(rows)
