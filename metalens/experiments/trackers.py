"""Experiment trackers: TensorBoard, Weights & Biases and MLflow, with a run for each cell."""

import hashlib
import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from metalens.errors import MetaLensError
from metalens.experiments.arms import Cell
from metalens.experiments.recipe import Recipe

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise a `MetaLensError` with the remedy if a tracker is not installed."""
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


class _Run(Logger):
    """A run of a tracker, with its title and key."""

    _title: str
    _key: str

    @property
    def name(self) -> str:
        return self._title

    @property
    def version(self) -> str:
        return self._key

    def log_hyperparams(  # pyright: ignore[reportIncompatibleMethodOverride] # as TensorBoardLogger has it
        self, params: Any, metrics: Mapping[str, float] | None = None, step: int | None = None
    ) -> None:
        self.log_settings(params)
        self.log_metrics(dict(metrics or {}), step)

    @abstractmethod
    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings of the cell."""


class WandbLogger(_Run):
    """A run of Weights & Biases; without a login it stays in the folder, for `wandb sync`."""

    def __init__(
        self, folder: Path, experiment: str, title: str, key: str, settings: Mapping[str, Any]
    ) -> None:
        import wandb  # pyright: ignore[reportMissingImports] # an extra

        self._title, self._key = title, key
        self.run = wandb.init(
            project="metalens",
            group=experiment,
            name=title,
            id=key,
            resume="allow",
            dir=folder,
            config=dict(settings),
            mode=None if os.environ.get("WANDB_MODE") or wandb.api.api_key else "offline",
            reinit="create_new",  # seeds are trained side by side
            settings=wandb.Settings(silent=True),
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log(dict(metrics), step=step)

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.run.config.update(settings, allow_val_change=True)

    def finalize(self, status: str) -> None:
        self.run.finish(exit_code=int(status != "success"))


class MLFlowLogger(_Run):
    """A run of MLflow, in a database in the folder, or at MLFLOW_TRACKING_URI."""

    def __init__(
        self, folder: Path, experiment: str, title: str, key: str, settings: Mapping[str, Any]
    ) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports] # an extra

        own = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or own)
        known = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if known is None else known.experiment_id
        runs = self._client.search_runs([number], f"tags.metalens = '{key}'")
        run = runs[0] if runs else self._client.create_run(number, tags={"metalens": key}, run_name=title)
        self._title, self._key = title, run.info.run_id
        self.log_settings(settings)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports] # an extra

        now = int(1000 * time.time())
        points = [Metric(name, value, now, step or 0) for name, value in metrics.items()]
        self._client.log_batch(self._key, metrics=points)

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports] # an extra

        texts = [Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(self._key, params=texts)

    def finalize(self, status: str) -> None:
        self._client.set_terminated(self._key, "FINISHED" if status == "success" else "FAILED")


LOGGERS: dict[str, Callable[[Path, str, str, str, Mapping[str, Any]], Logger]] = {
    "tensorboard": lambda folder, _, title, *__: TensorBoardLogger(folder / "tensorboard", title, version=""),
    "wandb": WandbLogger,
    "mlflow": MLFlowLogger,
}
