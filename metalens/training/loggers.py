"""Loggers of Lightning that are told the learning curve of a training while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger


@dataclass
class Listeners:
    """Loggers, and how much they know.

    They are told after every step with news, or, where checkpoints are written, just before each: a training
    that goes on from a checkpoint then tells what is missing, and nothing twice. Only a training that is
    killed within the writing of the checkpoint tells the last values once more, the same at the same steps.

    Attributes:
        loggers: of Lightning Fabric, or with its methods.
        n_told: rows of the learning curve that they were told.
    """

    loggers: Sequence[Logger] = ()
    n_told: int = 0

    def tell(self, rows: Sequence[tuple[int, str, str, float]]) -> None:
        """Tell the rows `step, split, metric, value` that are new, as `split/metric` at the step.

        >>> import tempfile
        >>> from lightning_fabric.loggers import CSVLogger
        >>> logger = CSVLogger(tempfile.mkdtemp())
        >>> listeners = Listeners([logger])
        >>> for _ in range(2):
        ...     listeners.tell([(1, "train", "query", 0.5), (1, "val", "mse", 0.25)])
        >>> with open(f"{logger.log_dir}/metrics.csv") as file:
        ...     file.read().split()
        ['step,train/query,val/mse', '1,0.5,0.25']
        """
        new = rows[self.n_told :] if self.loggers else []
        for step, of_step in groupby(new, key=lambda row: row[0]):
            values = {f"{split}/{metric}": value for _, split, metric, value in of_step}
            for logger in self.loggers:
                logger.log_metrics(values, step)
        if new:
            for logger in self.loggers:
                logger.save()
            self.n_told = len(rows)
