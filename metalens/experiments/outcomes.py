"""What came out of the cells of an experiment, kept in files until all of them are done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors.torch import save
from torch import Tensor

from metalens.errors import MetaLensError, in_one_sentence
from metalens.experiments.arms import Arm, Cell
from metalens.io.files import MANIFEST, atomic_path, remove_partials
from metalens.io.json import read_json
from metalens.training.checkpoint import differences

Groups = list[list[Cell]]
TABLES = ("results", "metrics", "curves", "relations")

_REMEDY = "begin anew without --resume"
FAILURES = "failures"  # in the manifest: the cells that failed, so that the experiment is not complete


class Outcome(NamedTuple):
    """What is written about a cell that was trained and tested; of one that was read, without its weights."""

    cell: Cell
    weights: dict[str, Tensor]
    scores: dict[str, float]
    facts: dict[str, Any]
    tables: dict[str, list[pd.DataFrame]]

    @property
    def is_scored(self) -> bool:
        """Whether training came to weights that could be tested."""
        is_known = any(frame["value"].notna().any() for frame in self.tables["results"])
        return self.facts["diverged"] is None or is_known


class Plan(NamedTuple):
    """How an experiment goes on.

    Attributes:
        groups: its cells, in groups that are trained side by side.
        done: the cells that were trained and tested before.
        seconds: how long the experiment took until the last of them was done.
        started: when it began.
    """

    groups: Groups
    done: list[Cell]
    seconds: float
    started: str


class Outcomes:
    """The outcomes of an experiment in its folder: the weights in their place, all else in files that wait.

    Args:
        folder: of the experiment.
        arms: its arms; weights are called by their place in this list.
    """

    def __init__(self, folder: Path, arms: Sequence[Arm]) -> None:
        self.folder, self.arms = folder, arms
        self.weights, self.waiting = folder / "weights", folder / "unfinished"
        self.groups: Groups = []

    def are_complete(self, configuration: Mapping[str, Any]) -> bool:
        """Tell whether nothing is left to do.

        Raises:
            MetaLensError: the folder has a complete experiment of another configuration.
        """
        complete = is_complete(self.folder, configuration)
        if complete:
            self.forget()
        return complete

    def clean(self) -> None:
        """Remove what writers that were killed have left; nobody may write now."""
        for folder in (self.folder, self.weights, self.waiting):
            remove_partials(folder)

    def plan(self, identity: Mapping[str, Any], started: str, groups: Callable[[], Groups]) -> Plan:
        """Return the plan of the experiment, the same whenever it is interrupted.

        Args:
            identity: which experiment it is, as plain values by name.
            started: the time of now.
            groups: divides the cells; asked the first time only, as it may depend on the memory at hand.

        Raises:
            MetaLensError: the folder has outcomes of another experiment.
        """
        path = self.waiting / "plan.json"
        for folder in (self.weights, self.waiting):
            folder.mkdir(exist_ok=True)
        if not path.is_file():
            divided = [[[cell.arm.learner, cell.arm.regularizers, cell.seed] for cell in g] for g in groups()]
            _write(path, {"identity": dict(identity), "started": started, "groups": divided})
        with _naming_damage(self.waiting):
            content = _read(path)
            _check_same(self.folder, content["identity"], identity)
            self.groups = [
                [Cell(Arm(learner, regularizers), seed) for learner, regularizers, seed in group]
                for group in content["groups"]
            ]
            cells = [repr(cell) for group in self.groups for cell in group]
            expected = [repr(Cell(arm, seed)) for arm in self.arms for seed in identity["seeds"]]
            if sorted(cells) != sorted(expected) or not all(self.groups):
                raise ValueError("its groups are not those of the run")
            done = [cell for group in self.groups for cell in group if self._file(cell).is_file()]
            seconds = max((float(_read(self._file(cell))["seconds"]) for cell in done), default=0.0)
            return Plan(self.groups, done, seconds, content["started"])

    def checkpoints(self, group: Sequence[Cell]) -> Path:
        """Return the folder for the checkpoints of a group."""
        return self.waiting / f"{self._name(group[0])}-checkpoints"

    def write(self, outcome: Outcome, seconds: float) -> None:
        """Keep an outcome, and how long the experiment took until then.

        With the last one of a group its checkpoints go.
        """
        with atomic_path(self.weights / f"{self._name(outcome.cell)}.safetensors") as path:
            path.write_bytes(save(outcome.weights))  # `save_file` has errors of its own for a full disk
        tables = {
            name: [frame.to_dict("list") for frame in frames] for name, frames in outcome.tables.items()
        }
        content = {"scores": outcome.scores, "facts": outcome.facts, "tables": tables, "seconds": seconds}
        _write(self._file(outcome.cell), content)
        (group,) = (group for group in self.groups if outcome.cell in group)
        if all(self._file(cell).is_file() for cell in group):
            shutil.rmtree(self.checkpoints(group), ignore_errors=True)

    def read(self, cell: Cell) -> Outcome:
        """Return the outcome of a cell that is done."""
        with _naming_damage(self._file(cell)):
            content = _read(self._file(cell))
            tables = {name: list(map(pd.DataFrame, content["tables"][name])) for name in TABLES}
            outcome = Outcome(cell, {}, dict(content["scores"]), dict(content["facts"]), tables)
            outcome.is_scored  # noqa: B018 # looks into tables and facts
            return outcome

    def forget(self) -> None:
        """Delete what waited, as the experiment is complete."""
        shutil.rmtree(self.waiting, ignore_errors=True)

    def _file(self, cell: Cell) -> Path:
        return self.waiting / f"{self._name(cell)}.json"

    def _name(self, cell: Cell) -> str:
        return f"arm{self.arms.index(cell.arm)}-seed{cell.seed}"


def is_complete(folder: Path, configuration: Mapping[str, Any]) -> bool:
    """Tell whether a folder has a complete experiment.

    Raises:
        MetaLensError: it is one of another configuration.
    """
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_json(folder / MANIFEST, _REMEDY, {"configuration": dict, FAILURES: list})
    _check_same(folder, manifest["configuration"], configuration)
    return not manifest[FAILURES]


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changes := differences(before, now):
        raise MetaLensError(
            f"{folder} is of another run: {changes}; make both alike, or begin anew without --resume."
        )


def _naming_damage(path: Path) -> AbstractContextManager[None]:
    """Say that an unfinished run is damaged where its files have another structure."""
    return in_one_sentence(f"{path} is damaged", _REMEDY)


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, _REMEDY)
