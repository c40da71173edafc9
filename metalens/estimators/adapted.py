"""Models that are adapted to one task: further rows, saving, and the importance of inputs."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from metalens.errors import MALFORMED, MetaLensError
from metalens.estimators.choice import Draw
from metalens.estimators.exporting import EnsembleProgram, refuse_parts
from metalens.estimators.importance import input_groups
from metalens.estimators.models import Ensemble
from metalens.estimators.saving import FORMAT, damaged, read_facts
from metalens.io.files import MODEL, new_folder
from metalens.io.json import is_of
from metalens.io.programs import save_program

if TYPE_CHECKING:
    from metalens.estimators.base import MetaEstimator

_ESTIMATOR, _SUPPORT = "estimator", "support.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedModel(ABC):
    """A model of one task, adapted to its support.

    Attributes:
        estimator: its fitted estimator.
        model: name of what adapted; see `weights_` of the estimator.
        task: name of the task, if the support has one.
    """

    estimator_class: ClassVar[type[MetaEstimator]]

    estimator: Any
    model: str
    task: str | None
    _x: Tensor  # inputs of the support
    _targets: pd.Series  # their targets, in their own units, or classes
    _models: Ensemble

    @property
    def n_support(self) -> int:
        """The number of support examples."""
        return len(self._x)

    @abstractmethod
    def predict(self, data: Any) -> np.ndarray:
        """Return predictions for rows of the task, `(n,)`."""

    def update(self, data: Any) -> Self:
        """Return the model adapted to further examples as well: the same as adapting to all at once.

        Args:
            data: rows or images of the task with their targets, as for `adapt`.

        Raises:
            MetaLensError: the rows are of another task, or cannot be used.
        """
        x, targets, task = self.estimator.reader_.support(data)
        if None not in (task, self.task) and task != self.task:
            raise MetaLensError(
                f"The rows are of task {task}, and the model is that of {self.task}; adapt another to them."
            )
        return self.estimator._adapted(*self._joined(x, targets), self.task or task)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model and its estimator into a new folder, atomically.

        The folder holds the support, to which the model adapts again when it is loaded: `model.json`,
        `support.safetensors`, and the estimator in a folder of its own, without code that runs on loading.

        Args:
            folder: path of the new folder.
            overwrite: replace an existing model.

        Raises:
            MetaLensError: the folder exists and may not be replaced, or cannot be written; or another model
                of the estimator was chosen since.
        """
        again = self.estimator._adapted(self._x, self._targets, self.task)
        if (again.model, again._models.weights) != (self.model, self._models.weights):
            raise MetaLensError(
                f"chosen_ of the estimator was changed since {self.model} adapted; adapt and save another."
            )
        facts = {"format": FORMAT, "kind": type(self).__name__, "metalens": version("metalens")}
        facts |= {"task": self.task, "classes": self._classes()}
        with new_folder(Path(folder), overwrite=overwrite) as path:
            (path / _ESTIMATOR).mkdir()
            self.estimator.write_into(path / _ESTIMATOR)
            tensors = {"x": self._x.contiguous(), "y": self._as_tensor()}
            (path / _SUPPORT).write_bytes(save(tensors))
            text = json.dumps(facts, indent=1, default=np.generic.item)
            (path / MODEL).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Return a model that `save` wrote, on the CPU.

        Raises:
            MetaLensError: the folder is missing, damaged, or of something else.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        if facts["kind"] != cls.__name__:
            raise MetaLensError(
                f"{folder} holds a {facts['kind']}, and this is {cls.__name__}; load it with its class."
            )
        estimator: Any = cls.estimator_class.load(folder / _ESTIMATOR)
        try:
            if not is_of(facts, {"task": (str, NoneType), "classes": [(str, int, float, bool)]}):
                raise ValueError("its task or its classes are not as expected")
            tensors = load_file(folder / _SUPPORT)
            targets = cls._from_tensor(tensors["y"], facts["classes"])
            return estimator._adapted(tensors["x"].clone(), targets, facts["task"])
        except (*MALFORMED, OSError, SafetensorError) as error:
            raise damaged(folder, error) from error

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one file that predicts without MetaLens: ONNX, or a program of `torch.export`.

        The input `x` of a table is `(n, k)` in double precision: columns of numbers as they are, with nan for
        missing ones; for a column of words one column of 0 and 1 for each category, named `dye=red`, all 0 if
        it is none of them; for molecules the numbers of the fingerprint. Scaling is a part of the program.
        Of images, `x` is `(n, channels, size, size)` with pixels in [-1, 1]. The output `predictions` holds
        targets in their own units, `(n, 1)`, or probabilities, `(n, classes)`; nan for rows that `predict`
        refuses or leaves out. The metadata of an ONNX file, and the extra file `facts.json` of the other,
        name `inputs` in their order, `outputs`, `model` and `task`, as JSON.

        Args:
            path: of the file, which ends in `.onnx` (needs the extra `onnx`) or `.pt2`; an existing one is
                replaced.

        Raises:
            MetaLensError: a model in the mean cannot be exported, as those of scikit-learn; or the file
                cannot be written.
        """
        candidates = self.estimator._candidates(len(self._classes()) or 1)
        refuse_parts(self.model, self._models, [c.name for c in candidates if c.can_be_exported])
        program = EnsembleProgram(self._models, self.estimator.reader_, classes=bool(self._classes()))
        outputs = self._classes() or [self.estimator.reader_.columns.target]
        facts = {"inputs": list(program.encode.names), "outputs": outputs}
        save_program(
            program,
            program.encode.example,
            path,
            name=self.model,
            any_rows=not any(model.is_transductive for model in self._models.models),
            facts={**facts, "model": self.model, "task": self.task},
        )

    def permutation_importance(self, data: Any, *, n_repeats: int = 30) -> pd.DataFrame:
        """Return how much worse the predictions for rows are if the values of a column are permuted.

        Args:
            data: rows of the task with their targets, which are not in the support.
            n_repeats: number of permutations of each column.

        Returns:
            Rows `input, value, deviation`: the mean fall of the score by which models are chosen, `metric_`,
            or of a loss its rise, and the standard deviation of permutations. nan if a column has the same
            value in all rows.

        Raises:
            MetaLensError: the rows cannot be used, or are too few for the score; or these are images.
        """
        input_groups(self.estimator.reader_)  # refuses images
        x, targets, _ = self.estimator.reader_.support(data)
        draw, predict = self._draw(x, targets), partial(self.estimator._predict, self._models)
        effects = self.estimator._effects(draw, predict, x.float(), n_repeats)
        if not effects:
            metric = self.estimator.metric_
            raise MetaLensError(f"These {len(x)} rows have no {metric}; give more, and of all classes.")
        rows = [(name, values.mean(), values.std()) for name, values in effects.items()]
        return pd.DataFrame(rows, columns=["input", "value", "deviation"])

    def _joined(self, x: Tensor, targets: pd.Series) -> tuple[Tensor, pd.Series]:
        """Return the examples of the support and further ones."""
        if not self.n_support:
            return x, targets
        return torch.cat([self._x, x]), pd.concat([self._targets, targets])

    @abstractmethod
    def _draw(self, x: Tensor, targets: pd.Series) -> Draw:
        """Return further examples as queries."""

    def _classes(self) -> list[Any]:
        """Return the classes that the targets of the support are numbered by; none of numbers."""
        return []

    @abstractmethod
    def _as_tensor(self) -> Tensor:
        """Return the targets of the support."""

    @staticmethod
    @abstractmethod
    def _from_tensor(y: Tensor, classes: list[Any]) -> pd.Series:
        """Return targets from `_as_tensor`."""
