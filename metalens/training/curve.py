"""The learning curve of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric.loggers.logger import Logger


@dataclass
class LearningCurve:
    """Rows `step, split, metric, value` of a training.

    Loggers get new rows after every step or, with checkpoints, just before each: a resumed training then logs
    nothing twice. Only a training that is killed while it writes a checkpoint logs the last rows once more.

    Attributes:
        rows: of the curve so far.
        loggers: of Lightning Fabric, or with the same methods.
        n_logged: number of rows that were logged.
    """

    rows: list[tuple[int, str, str, float]] = field(default_factory=list)
    loggers: Sequence[Logger] = ()
    n_logged: int = 0

    def __post_init__(self) -> None:
        if not all(hasattr(logger, "log_metrics") for logger in self.loggers):
            raise MetaLensError(f"loggers must be a list of Lightning Fabric's, got {self.loggers!r}.")

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add values by metric."""
        self.rows += [(step, split, metric, value) for metric, value in values.items()]

    def log(self) -> None:
        """Send new rows to the loggers, as `split/metric` at the step.

        >>> import tempfile
        >>> from lightning_fabric.loggers import CSVLogger
        >>> logger = CSVLogger(tempfile.mkdtemp())
        >>> curve = LearningCurve([(1, "train", "query", 0.5), (1, "val", "mse", 0.25)], [logger])
        >>> for _ in range(2):
        ...     curve.log()
        >>> with open(f"{logger.log_dir}/metrics.csv") as file:
        ...     file.read().split()
        ['step,train/query,val/mse', '1,0.5,0.25']
        """
        new = self.rows[self.n_logged :] if self.loggers else []
        for step, of_step in groupby(new, key=lambda row: row[0]):
            values = {f"{split}/{metric}": value for _, split, metric, value in of_step}
            for logger in self.loggers:
                logger.log_metrics(values, step)
        if new:
            for logger in self.loggers:
                logger.save()
            self.n_logged = len(self.rows)

    def table(self) -> pd.DataFrame:
        """Return the curve as a data frame."""
        import pandas as pd  # its import takes as long as that of all of MetaLens

        types = {"step": int, "split": str, "metric": str, "value": float}  # also without rows
        return pd.DataFrame(self.rows, columns=list(types)).astype(types)
