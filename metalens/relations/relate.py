"""The relations that a trained objective finds between any tasks of a distribution."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from metalens.adapted_tasks import AdaptedTasks
from metalens.data import TaskDistribution
from metalens.learners import Learner
from metalens.learners.base import module_mode
from metalens.objective import Objective
from metalens.regularizers import TRLearner
from metalens.regularizers.trlearner import TaskVector, descriptor_agreement
from metalens.tasks import place, stack_trimmed

CHUNK = 50  # tasks at a time; bounds memory


class Relations(NamedTuple):
    """Relations of n tasks.

    Attributes:
        names: of the tasks.
        matrix: `(n, n)`.
        kind: what the relations are, in words.
        agreement: rank correlation with the nearness of descriptors, or `None` where tasks have no
            descriptors.
    """

    names: list[str]
    matrix: np.ndarray
    kind: str
    agreement: float | None

    def pairs(self) -> pd.DataFrame:
        """Return `row, column, relation` of every pair of tasks.

        >>> Relations(["a", "b"], np.array([[1.0, 0.2], [0.2, 1.0]]), "", None).pairs().values.tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.2], [1.0, 0.0, 0.2], [1.0, 1.0, 1.0]]
        """
        rows, columns = np.indices(self.matrix.shape)
        cells = {"row": rows, "column": columns, "relation": self.matrix}
        return pd.DataFrame({name: values.ravel() for name, values in cells.items()})


def regularizer_of(objective: Objective, by: TaskVector | Literal["predictions"] | None = None) -> TRLearner:
    """Return what relates tasks in an objective: its TRLearner or, where it has none of use, plain cosine.

    Args:
        objective: trained, or not.
        by: in any case take plain cosine of these task vectors, or how well models predict each other's
            supports.

    Raises:
        MetaLensError: the learner has no such vectors.
    """
    for regularizer in objective.regularizers:
        if isinstance(regularizer, TRLearner) and regularizer.relations != "uniform" and by is None:
            return regularizer
    settings = {"relations": "frozen", "task_vector": by or "features"}
    if by == "predictions":
        settings = {"relations": "mutual"}
    plain = TRLearner.for_learner(objective.learner, **settings)
    return plain.to(objective.learner.device, objective.learner.dtype)


def relate(learner: Learner, regularizer: TRLearner, tasks: TaskDistribution, n: int) -> Relations:
    """Return the relations of tasks `0 ... n - 1` of a distribution.

    Args:
        learner: what the regularizer acts on; it adapts as at test time.
        regularizer: what relates tasks.
        tasks: the distribution.
        n: how many tasks.

    >>> from metalens import ANIL, ClusteredSinusoid, mlp
    >>> objective = Objective(ANIL(mlp()))
    >>> found = relate(objective.learner, regularizer_of(objective), ClusteredSinusoid("test"), 5)
    >>> found.matrix.shape, found.kind
    ((5, 5), 'plain cosine of features')
    """
    batch = stack_trimmed([tasks[number] for number in range(n)])
    batch = place(batch, learner.device, learner.dtype)
    with torch.no_grad(), torch.random.fork_rng(), module_mode(learner, training=False):
        torch.manual_seed(0)  # for shuffled relations
        adapted = AdaptedTasks(learner, batch, chunk=CHUNK)
        matrix = regularizer.relation_matrix(adapted)
        agreement = descriptor_agreement(matrix, adapted)
    names = [tasks.task_name(number) for number in range(n)]
    return Relations(
        names,
        matrix.double().cpu().numpy(),
        _kind(regularizer),
        None if agreement is None else agreement.item(),
    )


def _kind(regularizer: TRLearner) -> str:
    if regularizer.relations in ("known", "known_shuffled"):
        return regularizer.relations.replace("_", " and ") + " relations, by descriptors"
    if regularizer.relations == "mutual":
        return "mutual predictions"
    name = "plain cosine" if regularizer.relations == "frozen" else f"{regularizer.relations} relations"
    return f"{name} of {regularizer.task_vector}"
