"""The loggers of the trackers, in the form of Lightning's, each for one cell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger


class WandbLogger(Logger):
    """A run of Weights & Biases; without a login it stays in the folder, for `wandb sync`."""

    def __init__(
        self, folder: Path, experiment: str, title: str, key: str, settings: Mapping[str, Any]
    ) -> None:
        import wandb  # pyright: ignore[reportMissingImports] # an extra

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

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def version(self) -> str:
        return self.run.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log(dict(metrics), step=step)

    def log_hyperparams(  # pyright: ignore[reportIncompatibleMethodOverride] # as TensorBoardLogger has it
        self, params: Any, metrics: Mapping[str, float] | None = None, step: int | None = None
    ) -> None:
        self.run.config.update(params, allow_val_change=True)
        self.log_metrics(metrics or {}, step)

    def finalize(self, status: str) -> None:
        self.run.finish(exit_code=int(status != "success"))


class MLFlowLogger(Logger):
    """A run of MLflow, in a data base in the folder, or where MLFLOW_TRACKING_URI says."""

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
        self._title, self._id = title, run.info.run_id
        self.log_hyperparams(settings)

    @property
    def name(self) -> str:
        return self._title

    @property
    def version(self) -> str:
        return self._id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports] # an extra

        now = int(1000 * time.time())
        points = [Metric(name, value, now, step or 0) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=points)

    def log_hyperparams(  # pyright: ignore[reportIncompatibleMethodOverride] # as TensorBoardLogger has it
        self, params: Any, metrics: Mapping[str, float] | None = None, step: int | None = None
    ) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports] # an extra

        texts = [Param(name, str(value)) for name, value in params.items()]
        self._client.log_batch(self._id, params=texts)
        self.log_metrics(metrics or {}, step)

    def finalize(self, status: str) -> None:
        self._client.set_terminated(self._id, "FINISHED" if status == "success" else "FAILED")


def _tensorboard(
    folder: Path, experiment: str, title: str, key: str, settings: Mapping[str, Any]
) -> TensorBoardLogger:
    return TensorBoardLogger(folder / "tensorboard", title, version="")


LOGGERS: dict[str, Callable[[Path, str, str, str, Mapping[str, Any]], Logger]] = {
    "tensorboard": _tensorboard,
    "wandb": WandbLogger,
    "mlflow": MLFlowLogger,
}
