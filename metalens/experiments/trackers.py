"""Experiment trackers: TensorBoard, Weights & Biases and MLflow, with a run for each cell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metalens.errors import MetaLensError
from metalens.experiments.arms import Cell
from metalens.experiments.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        MetaLensError: with the command that installs it.
    """
    for name in names:
        if (spec := find_spec(name)) is None or spec.origin is None:  # a folder of that name
            raise MetaLensError(
                f"The tracker {name} is not installed; install it by pip install 'metalens[{name}]', or "
                "leave it out, as metrics.csv and results.csv have the same numbers."
            )


@dataclass(frozen=True)
class Trackers:
    """Open and close the loggers of the cells of an experiment.

    Args:
        names: the trackers.
        folder: of the experiment, in which trackers write by default.
        recipe: whose settings are the hyperparameters of every cell.
        started: when the experiment began; with the folder it identifies the runs to resume.
    """

    names: Sequence[TrackerName]
    folder: Path
    recipe: Recipe
    started: str

    def open(self, cell: Cell) -> list[Logger]:
        """Return the loggers of a cell, which continue its interrupted runs."""
        from metalens.experiments.tracker_loggers import LOGGERS  # imports Lightning, which takes seconds

        title = re.sub(r"[^\w (),+=.-]", "_", f"{cell.arm}, seed {cell.seed}")
        key = hashlib.sha256(f"{self.folder.resolve()} {self.started} {title}".encode()).hexdigest()[:16]
        words = self.folder, self.recipe.name, title, key, self._settings(cell)
        return [LOGGERS[name](*words) for name in self.names]

    def close(self, loggers: Sequence[Logger], cell: Cell, scores: Mapping[str, float]) -> None:
        """Log the test scores of a cell with its settings, and close its loggers."""
        metrics = {f"test/{metric}": score for metric, score in scores.items()}
        for logger in loggers:
            logger.log_hyperparams(self._settings(cell), metrics, self.recipe.steps)
            logger.finalize("success")

    def _settings(self, cell: Cell) -> dict[str, Any]:
        settings = {**self.recipe.identity, **cell.arm._asdict(), "seed": cell.seed}
        del settings["seeds"]
        return settings
