"""Pretrained models that read the support set in context, with weights from a local file."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch

from metalens.data.checks import check_sizes
from metalens.errors import MALFORMED, MetaLensError, check_counts, extra, reraise_as
from metalens.learners.baselines.base import Baseline

_NOT_WEIGHTS = (*MALFORMED, AssertionError, EOFError, OSError, UnpicklingError)  # by which a package tells so


class InContext(Baseline):
    """A transformer that was pretrained on synthetic tables, with the support of each task as its context.

    Nothing is trained: support and queries go through it together. A support of one example, or without any
    input that varies, is predicted by its mean or its class shares. A subclass names the package, whose wheel
    holds no weights, and nothing is downloaded.

    Args:
        n_outputs: number of targets, each of which is predicted alone, or of classes of a task.
        weights: path of the file with the weights, of numbers or of classes.
        n_estimators: predictions with permuted inputs that are averaged.
        seed: of these permutations.

    Attributes:
        files: what to bring, in words.

    Raises:
        MetaLensError: the package or the file is missing, or a setting is out of range.
    """

    files: ClassVar[str]

    def __init__(
        self,
        n_outputs: int,
        *,
        weights: str | os.PathLike[str] | None = None,
        n_estimators: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(n_outputs)
        check_counts(self, n_estimators=n_estimators)
        check_sizes(0, seed=seed)
        name = type(self).__name__
        if weights is None or not Path(weights).is_file():
            got = "got none" if weights is None else f"there is none at {os.fspath(weights)}"
            raise MetaLensError(
                f"{name} needs weights, the path of a file with them, and {got}; bring {self.files}."
            )
        self.weights, self.n_estimators, self.seed = os.fspath(weights), n_estimators, seed
        self._models()

    @classmethod
    @abstractmethod
    def _models(cls) -> tuple[Any, Any]:
        """Return the package's classes for numbers and for classes, in the manner of scikit-learn."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Return the arguments of both classes."""

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        is_plain = len(x) < 2 or not np.ptp(x, axis=0).any()
        if not classes:
            found = [
                np.full(len(new_x), column.mean())
                if is_plain or np.ptp(column) == 0
                else self._read(x, column, new_x, classes=False)[0]
                for column in y.T.astype(float)
            ]
            return np.stack(found, axis=1)
        known = np.unique(y)
        if is_plain or len(known) == 1:
            shares = np.bincount(y, minlength=self.n_outputs)[known] / len(y)
            return self.log_probabilities(shares[None].repeat(len(new_x), axis=0), known)
        return self.log_probabilities(*self._read(x, y, new_x, classes=True))

    def _read(
        self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers `(n,)` and no classes, or probabilities `(n, k)` and their classes `(k,)`."""
        for_numbers, for_classes = self._models()
        targets = "classes" if classes else "numbers"
        prefix = f"{type(self).__name__} cannot use {self.weights} for {targets}"
        remedy = f"give a file with weights for {targets}"
        kind = for_classes if classes else for_numbers
        with (
            reraise_as(prefix, remedy, _NOT_WEIGHTS),
            torch.random.fork_rng(devices=[]),  # a new model draws weights before it reads them
            np.errstate(all="ignore"),  # scales that a package tries and then leaves out may overflow
        ):
            model = kind(**self._settings()).fit(x, y)
            if classes:
                return model.predict_proba(new_x), model.classes_
            return model.predict(new_x), np.zeros(0, int)


class TabICL(InContext):
    """TabICL, which embeds the columns of a table, then its rows, and reads these in context.

    It was pretrained on synthetic tables, and has the support of each task as its context: nothing is
    trained, and nothing downloaded. The package `tabicl`, the extra of that name, reads the file. A support
    of one example, or without an input that varies, is predicted by its mean or its class shares.

    Args:
        n_outputs: number of targets, each of which is predicted alone, or of classes of a task.
        weights: path of the file with the weights, of numbers or of classes.
        n_estimators: predictions with permuted inputs that are averaged.
        seed: of these permutations.

    Raises:
        MetaLensError: the package or the file is missing, or a setting is out of range.

    >>> from metalens import TabICL
    >>> TabICL(n_outputs=1)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: TabICL needs weights, the path of a file with them, and got none; bring
    tabicl-regressor-v2-20260212.ckpt of jingang/TabICL, or its classifier.

    Source: J. Qu, D. Holzmüller, G. Varoquaux, M. Le Morvan, "TabICL: A Tabular Foundation Model for
    In-Context Learning on Large Data", ICML 2025, arXiv 2502.05564.
    """

    files = "tabicl-regressor-v2-20260212.ckpt of jingang/TabICL, or its classifier"

    @classmethod
    def _models(cls) -> tuple[Any, Any]:
        with extra("tabicl"):
            from tabicl import TabICLClassifier, TabICLRegressor  # pyright: ignore[reportMissingImports]
        return TabICLRegressor, TabICLClassifier

    def _settings(self) -> dict[str, Any]:
        return {
            "model_path": self.weights,
            "allow_auto_download": False,
            "n_estimators": self.n_estimators,
            "random_state": self.seed,
            "device": str(self.device),
        }


class TabPFN(InContext):
    """TabPFN of version 2, whose attention goes over the rows and the columns of a table in turn.

    It was pretrained on synthetic tables, and has the support of each task as its context: nothing is
    trained, and nothing downloaded. The package `tabpfn`, the extra of that name, reads the file. A support
    of one example, or without an input that varies, is predicted by its mean or its class shares.

    Args:
        n_outputs: number of targets, each of which is predicted alone, or of classes of a task.
        weights: path of the file with the weights, of numbers or of classes.
        n_estimators: predictions with permuted inputs that are averaged.
        seed: of these permutations.

    Raises:
        MetaLensError: the package or the file is missing, or a setting is out of range.

    >>> from metalens import TabPFN
    >>> TabPFN(n_outputs=1)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: TabPFN needs weights, the path of a file with them, and got none; bring
    tabpfn-v2-regressor.ckpt of Prior-Labs/TabPFN-v2-reg, or its classifier.

    Source: N. Hollmann et al., "Accurate predictions on small data with a tabular foundation model", Nature
    637, 2025.
    """

    files = "tabpfn-v2-regressor.ckpt of Prior-Labs/TabPFN-v2-reg, or its classifier"

    @classmethod
    def _models(cls) -> tuple[Any, Any]:
        with extra("tabpfn"):
            from tabpfn import TabPFNClassifier, TabPFNRegressor  # pyright: ignore[reportMissingImports]
        return TabPFNRegressor, TabPFNClassifier

    def _settings(self) -> dict[str, Any]:
        return {
            "model_path": self.weights,
            "n_estimators": self.n_estimators,
            "random_state": self.seed,
            "device": str(self.device),
        }
