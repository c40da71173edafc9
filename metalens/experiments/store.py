"""The results of cells, kept in the folder of an experiment until all cells are done."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from metalens.errors import MetaLensError, reraise_as
from metalens.experiments.arms import Arm, Cell
from metalens.experiments.recipe import Recipe
from metalens.io.files import MANIFEST, atomic_path, remove_partials
from metalens.io.json import read_json
from metalens.training.checkpoint import differences

Groups = list[list[Cell]]
TABLES = ("results", "metrics", "curves", "relations")

_REMEDY = "start over without --resume"
FAILURES = "failures"  # in the manifest: the cells that failed, so that the experiment is not complete


class CellResult(NamedTuple):
    """The result of a cell.

    Attributes:
        cell: the arm and the seed.
        scores: mean test scores by metric.
        facts: its entry in the manifest.
        is_scored: whether training reached weights that could be tested.
        tables: its rows of the tables of the experiment, as CSV; empty text without rows.
        weights: of the trained objective; empty in a result that was read.
    """

    cell: Cell
    scores: dict[str, float]
    facts: dict[str, Any]
    is_scored: bool
    tables: dict[str, str]
    weights: dict[str, Tensor]


class RunPlan(NamedTuple):
    """The plan of a new or resumed experiment.

    Attributes:
        groups: its cells, in groups that are trained side by side.
        done: the cells that were trained and tested before.
        seconds: time from the start until the last of them was done.
        started: when the experiment began.
    """

    groups: Groups
    done: list[Cell]
    seconds: float
    started: str


class Store:
    """The results of an experiment in its folder: weights in their place, all else in temporary files.

    Args:
        folder: of the experiment.
        arms: of the experiment; files are named by the index of the arm.
    """

    def __init__(self, folder: Path, arms: Sequence[Arm]) -> None:
        self.folder, self.arms = folder, arms
        self.weights, self.unfinished = folder / "weights", folder / "unfinished"
        self.groups: Groups = []

    def is_complete(self, recipe: Recipe) -> bool:
        """Return whether the experiment is complete, see `is_complete`; if so, remove the temporary files."""
        if complete := is_complete(self.folder, recipe.identity):
            self.forget()
        return complete

    def clean(self) -> None:
        """Remove the files of killed writers; no process may be writing."""
        for folder in (self.folder, self.weights, self.unfinished):
            remove_partials(folder)

    def plan(self, identity: Mapping[str, Any], started: str, groups: Callable[[], Groups]) -> RunPlan:
        """Return the plan of the experiment, the same after every interruption.

        Args:
            identity: of the experiment, plain values by name.
            started: the current time.
            groups: divides the cells; called only once, as it may depend on the free memory.

        Raises:
            MetaLensError: the folder has results of another experiment.
        """
        path = self.unfinished / "plan.json"
        for folder in (self.weights, self.unfinished):
            folder.mkdir(exist_ok=True)
        if not path.is_file():
            divided = [[[*cell.arm, cell.seed] for cell in group] for group in groups()]
            _write(path, {"identity": dict(identity), "started": started, "groups": divided})
        with reraise_as(f"{self.unfinished} is damaged", _REMEDY):
            content = read_json(path, _REMEDY)
            _check_same(self.folder, content["identity"], identity)
            self.groups = [[Cell(Arm(*arm), seed) for *arm, seed in group] for group in content["groups"]]
            cells = [repr(cell) for group in self.groups for cell in group]
            expected = [repr(Cell(arm, seed)) for arm in self.arms for seed in identity["seeds"]]
            if sorted(cells) != sorted(expected) or not all(self.groups):
                raise ValueError("its groups are not those of the run")
            done = [cell for group in self.groups for cell in group if self._file(cell).is_file()]
            seconds = [float(read_json(self._file(cell), _REMEDY)["seconds"]) for cell in done]
            return RunPlan(self.groups, done, max(seconds, default=0.0), content["started"])

    def checkpoints(self, group: Sequence[Cell]) -> Path:
        """Return the folder for the checkpoints of a group."""
        return self.unfinished / f"{self._name(group[0])}-checkpoints"

    def write(self, result: CellResult, seconds: float) -> None:
        """Write a result and the time since the start; the last one of a group deletes its checkpoints."""
        with atomic_path(self.weights / f"{self._name(result.cell)}.safetensors") as path:
            path.write_bytes(save(result.weights))  # `save_file` raises another error if the disk is full
        content = {name: getattr(result, name) for name in ("scores", "facts", "is_scored", "tables")}
        _write(self._file(result.cell), {**content, "seconds": seconds})
        (group,) = (group for group in self.groups if result.cell in group)
        if all(self._file(cell).is_file() for cell in group):
            shutil.rmtree(self.checkpoints(group), ignore_errors=True)

    def read(self, cell: Cell) -> CellResult:
        """Return the result of a cell that is done, without its weights."""
        with reraise_as(f"{self._file(cell)} is damaged", _REMEDY):
            content = read_json(self._file(cell), _REMEDY, {"is_scored": bool})
            tables = {name: str(content["tables"][name]) for name in TABLES}
            facts = dict(content["facts"])
            facts["diverged"]  # raises if it is missing
            return CellResult(cell, dict(content["scores"]), facts, content["is_scored"], tables, {})

    def write_tables(self, results: Sequence[CellResult]) -> None:
        """Concatenate the tables of the cells, or raise a `MetaLensError` if their columns differ."""
        for name in TABLES:
            texts = [result.tables[name] for result in results if result.tables[name]]
            headers = {text.partition("\n")[0] for text in texts}
            if len(headers) > 1:
                raise MetaLensError(f"{self.unfinished} is damaged: columns of {name} differ; {_REMEDY}.")
            if headers:
                rows = "".join(text.partition("\n")[2] for text in texts)
                with atomic_path(self.folder / f"{name}.csv") as path:
                    path.write_text(f"{headers.pop()}\n{rows}", encoding="utf-8", newline="")

    def forget(self) -> None:
        """Delete the temporary files, as the experiment is complete."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _file(self, cell: Cell) -> Path:
        return self.unfinished / f"{self._name(cell)}.json"

    def _name(self, cell: Cell) -> str:
        return f"arm{self.arms.index(cell.arm)}-seed{cell.seed}"


def is_complete(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether a folder has a complete experiment.

    Args:
        folder: of a run or a study.
        identity: its settings by name, as of `Recipe.identity`.

    Raises:
        MetaLensError: the folder has another experiment.
    """
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_json(folder / MANIFEST, _REMEDY, {"configuration": dict, FAILURES: list})
    machine = {f"machine.{name}": value for name, value in manifest.get("machine", {}).items()}
    _check_same(folder, {**manifest["configuration"], **machine}, identity)
    return not manifest[FAILURES]


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changes := differences(before, now):
        raise MetaLensError(
            f"{folder} is of another run: {changes}; make both alike, or start over without --resume."
        )


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")
