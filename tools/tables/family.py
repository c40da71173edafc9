"""Methods that share a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import numpy as np

from tools.tables.protocol import Episode, Fold

Predict = Callable[[Sequence[Episode]], list[np.ndarray]]  # of all tasks with one number of known rows


class NotApplicableError(Exception):
    """A method has no answer to so few known rows, or to such data, by its nature."""


@dataclass(frozen=True)
class Fitted:
    """A method that was trained on the training tasks of a fold.

    Attributes:
        label: its name on the page.
        predict: from held-out tasks to predictions for their query rows: numbers, or chances of the second
            class. What is fitted to the training tasks and all known rows together is fitted in here.
        note: what was found in training, for the page.
        limits: from held-out tasks to the limits of 90 % intervals for their query rows, `(n, 2)`.
    """

    label: str
    predict: Predict
    note: str = ""
    limits: Predict | None = None


@dataclass(frozen=True)
class Family:
    """Methods that share a training: they are run, timed and cached together.

    Attributes:
        function: `module.function` in `tools.tables`; yields the methods, each as soon as it is trained.
        package: that must be installed.
        kinds: of targets.
        molecules: whether it takes fingerprints.
    """

    function: str
    package: str | None = None
    kinds: tuple[Literal["number", "class"], ...] = ("number", "class")
    molecules: bool = True

    def load(self) -> Callable[[Fold], Iterator[Fitted]]:
        """Return the function."""
        module, _, name = self.function.partition(".")
        return getattr(import_module(f"tools.tables.{module}"), name)

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return self.package is None or find_spec(self.package) is not None


FAMILIES = {
    "metalens": Family("ours.metalens"),
    "task": Family("single.of_one_task"),
    "mixed": Family("mixed.mixed_models", "statsmodels", molecules=False),
    "lightgbm": Family("boosting.lightgbm", "lightgbm"),
    "catboost": Family("boosting.catboost", "catboost"),
    "gpboost": Family("grouped_boosting.gpboost", "gpboost"),
}
