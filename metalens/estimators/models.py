"""Models that adapt to a task, the meta-learner and baselines, and their predictions."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.learners import R2D2, AdaptedModel, Baseline, Learner, LinearProbe, NetworkLearner
from metalens.specs.calls import LEARNERS
from metalens.tasks import Examples

FEATURE_MEAN = "NearestFeatureMean"  # nearest class mean on the features of LinearProbe
_MAX_NUMBERS = 2**22  # in inputs that are predicted for together; bounds memory


@dataclass(frozen=True)
class Candidate:
    """Learners of one kind, whose predictions are averaged.

    Attributes:
        name: of the model.
        learners: one for each seed; what is not trained has no seeds, and is one.
    """

    name: str
    learners: tuple[Learner, ...]

    @torch.no_grad()
    def adapt(self, support: Examples) -> Ensemble:
        """Return the models that are adapted to a support set.

        Raises:
            MetaLensError: a model cannot adapt to it.
        """
        try:
            return Ensemble(tuple(learner(support) for learner in self.learners))
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise MetaLensError(
                f"{self.name} cannot adapt to these rows, as its equations have no solution; look for "
                "numbers far outside of those that it was trained on."
            ) from error


@dataclass(frozen=True)
class Ensemble:
    """Models adapted to one task: call them on inputs.

    Attributes:
        models: one for each seed.
    """

    models: tuple[AdaptedModel, ...]

    @torch.no_grad()
    def __call__(self, x: Tensor, *, classes: bool = False) -> Tensor:
        """Return predictions, the mean over the models, in double precision on the CPU.

        Args:
            x: inputs `(n, *input_shape)`.
            classes: whether the models give logits.

        Returns:
            Targets `(n, c)`, or probabilities of classes.
        """
        parts = []
        for part in x.split(max(1, _MAX_NUMBERS // max(1, x[0].numel()))):
            of_all = torch.stack([model(part.float()).cpu().double() for model in self.models])
            parts.append((of_all.softmax(-1) if classes else of_all).mean(0))
        return torch.cat(parts)


class Answer(NamedTuple):
    """What a model predicts for the queries of a task.

    Attributes:
        model: its name.
        task: its name.
        predictions: targets in their own units, or probabilities of classes.
        y: true targets of the queries, as the model has them.
        known: those of the support.
    """

    model: str
    task: str
    predictions: Tensor
    y: Tensor
    known: Tensor


def trained_on_tasks(baseline: str) -> str | None:
    """Return the learner that a baseline needs trained on all tasks; `None` if it learns nothing across them.

    >>> trained_on_tasks("JointModel"), trained_on_tasks("NearestFeatureMean"), trained_on_tasks("KNN")
    ('JointModel', 'LinearProbe', None)

    Raises:
        MetaLensError: there is no such baseline.
    """
    if baseline == FEATURE_MEAN:
        return "LinearProbe"
    if baseline not in LEARNERS:
        raise MetaLensError(
            f"There is no baseline {baseline!r}; choose from {', '.join((FEATURE_MEAN, *LEARNERS))}."
        )
    cls = LEARNERS[baseline]
    is_per_task = issubclass(cls, Baseline) and cls.prepare is Learner.prepare
    return None if is_per_task else baseline


def takes_any_classes(learner: Learner) -> bool:
    """Return whether a trained learner can adapt to another number of classes than it was trained with."""
    return hasattr(learner, "n_way") or isinstance(learner, R2D2 | LinearProbe | Baseline)


def for_classes(learner: Learner, n: int) -> Learner:
    """Return a trained learner for tasks of n classes; it shares all that was learned.

    Raises:
        MetaLensError: it was trained for another number of classes, and its head is part of what it learned.

    >>> from metalens import ProtoNet, mlp
    >>> for_classes(ProtoNet(mlp(4, 5)), 3).n_way
    3
    """
    if takes_any_classes(learner):
        twin = copy(learner)
        setattr(twin, "n_way" if hasattr(learner, "n_way") else "n_outputs", n)
        return twin
    assert isinstance(learner, NetworkLearner)  # baselines take any number
    if learner.network.n_outputs != n:
        raise MetaLensError(
            f"{type(learner).__name__} was trained for {learner.network.n_outputs} classes, got {n}; use one "
            "that takes any number: ProtoNet, MatchingNet, ProtoMAML, R2D2 or LinearProbe."
        )
    return learner
