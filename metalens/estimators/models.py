"""Models that adapt to a task, meta-learner and baselines, and their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.learners import R2D2, AdaptedModel, Baseline, Learner, LinearProbe, NetworkLearner
from metalens.learners.labels import n_labels
from metalens.specs.calls import LEARNERS, learner_call
from metalens.tasks import Examples

FEATURE_MEAN = "NearestFeatureMean"  # nearest class mean on the features of LinearProbe
_MAX_NUMBERS = 2**22  # of inputs in one prediction; bounds memory


@dataclass(frozen=True)
class Candidate:
    """Learners whose predictions are averaged: of one kind, one for each seed, or of several kinds.

    Attributes:
        name: of what adapts.
        learners: to adapt.
        weights: of the learners in the mean, adding up to 1.
    """

    name: str
    learners: tuple[Learner, ...]
    weights: tuple[float, ...]

    @classmethod
    def of_one_kind(cls, name: str, learners: Sequence[Learner]) -> Self:
        """Return a candidate with equal weights."""
        return cls(name, tuple(learners), (1 / len(learners),) * len(learners))

    @classmethod
    def stack(cls, name: str, parts: Sequence[tuple[float, Candidate]]) -> Self:
        """Return the weighted mean of other candidates."""
        learners = tuple(learner for _, part in parts for learner in part.learners)
        return cls(name, learners, tuple(weight * own for weight, part in parts for own in part.weights))

    @property
    def min_support(self) -> int:
        """The fewest support examples to adapt to."""
        return max(learner.min_support for learner in self.learners)

    @property
    def can_be_exported(self) -> bool:
        """Whether all its adapted models can be exported."""
        return all(learner.export_refusal is None for learner in self.learners)

    @torch.no_grad()
    def adapt(self, support: Examples) -> Ensemble:
        """Return the models adapted to a support set.

        Raises:
            MetaLensError: a model cannot adapt to it, or needs more examples.
        """
        if (n := len(support.x)) < self.min_support:
            least = f"{self.name} needs {self.min_support} support rows or more"
            raise MetaLensError(f"{least}, got {n}; add some.")
        try:
            return Ensemble(tuple(learner(support) for learner in self.learners), self.weights)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise MetaLensError(
                f"{self.name} cannot adapt to these rows, as its equations have no solution; look for "
                "numbers far outside of those that it was trained on."
            ) from error


@dataclass(frozen=True)
class Ensemble:
    """Models adapted to one task, with weights that add up to 1: call them on inputs."""

    models: tuple[AdaptedModel, ...]
    weights: tuple[float, ...]

    @torch.no_grad()
    def __call__(self, x: Tensor, *, classes: bool = False) -> Tensor:
        """Return mean predictions of inputs `(n, *input_shape)` in double precision on the CPU, `(n, c)`.

        These are targets, or the probabilities of `classes`.
        """
        return torch.cat([self.mean(part, classes=classes) for part in _parts(x)])

    @torch.no_grad()
    def deviation(self, x: Tensor) -> Tensor | None:
        """Return the standard deviations of new targets at inputs, in units of the models, `(n,)`.

        These are roots of the mean variance of the models; `None` if one has none.
        """
        if not all(hasattr(model.learner, "predict_distribution") for model in self.models):
            return None
        return torch.cat([self._variance(part) for part in _parts(x)]).sqrt()

    def _variance(self, x: Tensor) -> Tensor:
        learners: list[Any] = [model.learner for model in self.models]
        pairs = zip(learners, self.models, strict=True)
        found = [learner.predict_distribution(model.state, x) for learner, model in pairs]
        variances = torch.stack([variance[:, 0].cpu().double() for _, variance in found])
        return torch.tensordot(torch.tensor(self.weights, dtype=torch.float64), variances, dims=1)

    def mean(self, x: Tensor, *, classes: bool) -> Tensor:
        """Return the same of inputs in the precision of the models, all at once."""
        of_all = torch.stack([model(x).cpu().double() for model in self.models])
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return torch.tensordot(weights, of_all.softmax(-1) if classes else of_all, dims=1)


def _parts(x: Tensor) -> list[Tensor]:
    """Return the parts of inputs that are predicted at a time, in single precision."""
    size = max(1, _MAX_NUMBERS // max(1, x[0].numel()))
    return [part.float() for part in x.split(size)]


def named_baselines(texts: Sequence[str], learner: str) -> dict[str, str]:
    """Return the texts of baselines by name; the name of the learner's class with other settings is its text.

    >>> named_baselines(["KNN(n_neighbors=3)", "R2D2(ridge=2.0)"], "R2D2")
    {'KNN': 'KNN(n_neighbors=3)', 'R2D2(ridge=2.0)': 'R2D2(ridge=2.0)'}

    Raises:
        MetaLensError: two have the same name.
    """
    own, found = learner_call(learner), {}
    for text in texts:
        call = learner_call(text)
        found[str(call) if call.name == own.name and call != own else call.name] = text
    if len(found) < len(texts):
        raise MetaLensError(f"baselines must name each learner once, got {', '.join(texts)}.")
    return found


def trained_on_tasks(baseline: str) -> str | None:
    """Return the learner to train on all tasks for a baseline; `None` if it learns from single tasks.

    >>> trained_on_tasks("JointModel"), trained_on_tasks("NearestFeatureMean"), trained_on_tasks("KNN")
    ('JointModel', 'LinearProbe', None)

    Raises:
        MetaLensError: there is no such baseline.
    """
    if baseline == FEATURE_MEAN:
        return "LinearProbe"
    name = learner_call(baseline).name
    if not LEARNERS.is_known(name):
        raise MetaLensError(
            f"There is no baseline {baseline!r}; choose from {', '.join((FEATURE_MEAN, *LEARNERS))}."
        )
    cls = LEARNERS.find(name)
    is_per_task = issubclass(cls, Baseline) and cls.prepare is Learner.prepare
    return None if is_per_task else baseline


def for_classes(learner: Learner, n: int) -> Learner:
    """Return a trained learner for tasks of n classes, with shared parameters.

    Raises:
        MetaLensError: its trained head is for another number of classes.

    >>> from metalens import ProtoNet, mlp
    >>> for_classes(ProtoNet(mlp(4, 5)), 3).n_way
    3
    """
    if isinstance(learner, R2D2) and learner.prior_mean and learner.n_outputs != n:
        raise MetaLensError(
            f"R2D2 was trained with prior weights of {learner.n_outputs} classes, got {n}; use "
            "prior_mean=False for tasks with any number of classes."
        )
    if hasattr(learner, "n_way") or isinstance(learner, R2D2 | LinearProbe | Baseline):
        twin = copy(learner)
        setattr(twin, "n_way" if hasattr(learner, "n_way") else "n_outputs", n)
        return twin
    assert isinstance(learner, NetworkLearner)  # baselines take any number
    if (trained := n_labels(learner)) != n:
        raise MetaLensError(
            f"{type(learner).__name__} was trained for {trained} classes, got {n}; use one that takes any "
            "number: ProtoNet, MatchingNet, MetaOptNet, ProtoMAML, R2D2 or LinearProbe."
        )
    return learner


def most_probable(classes: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Return the most probable class of each row, `(n,)`; `None` if its probabilities are nan.

    >>> most_probable(np.array(["no", "yes"]), np.array([[0.4, 0.6], [np.nan, np.nan]])).tolist()
    ['yes', None]
    """
    unknown = np.isnan(chances).any(1)
    found = classes[np.where(unknown, 0, chances.argmax(1))]
    if unknown.any():
        found = found.astype(object)
        found[unknown] = None
    return found
