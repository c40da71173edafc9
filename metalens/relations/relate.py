"""Relations of a trained learner between any tasks of a distribution."""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from metalens.adapted_tasks import AdaptedTasks
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.learners import Learner, NetworkLearner
from metalens.networks.modes import module_mode
from metalens.relations import Cosine, Mutual, Relation, Stacked
from metalens.relations.agreement import descriptor_agreement
from metalens.relations.vectors import TaskVector
from metalens.tasks import place, stack_trimmed

CHUNK = 50  # tasks adapted at a time; bounds memory


class Relations(NamedTuple):
    """Relations of n tasks.

    Attributes:
        names: of the tasks.
        matrix: `(n, n)`.
        kind: a short description of the relations.
        agreement: see `descriptor_agreement`.
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


def plain_relation(by: TaskVector | Literal["predictions", "regression"]) -> Relation:
    """Return a relation without learned weights.

    Args:
        by: plain cosine of these task vectors; `"predictions"` for `Mutual`, `"regression"` for `Stacked`.

    >>> plain_relation("labeled").title, plain_relation("predictions").title
    ('plain cosine of labeled', 'mutual predictions')
    """
    if by == "regression":
        return Stacked()
    return Mutual() if by == "predictions" else Cosine(vector=by, learned=False)


def relate(learner: Learner, relation: Relation | None, tasks: TaskDistribution, n: int) -> Relations:
    """Return the relations of tasks `0 ... n - 1` of a distribution.

    Args:
        learner: a trained learner; it adapts as at test time.
        relation: such as `Objective.relation`; `None` for plain cosine of features.
        tasks: the distribution.
        n: number of tasks.

    Raises:
        MetaLensError: the relation does not support the learner or the tasks.

    >>> from metalens import ANIL, ClusteredSinusoid, mlp
    >>> found = relate(ANIL(mlp()), None, ClusteredSinusoid("test"), 5)
    >>> found.matrix.shape, found.kind
    ((5, 5), 'plain cosine of features')
    """
    relation = plain_relation("features") if relation is None else relation
    if not isinstance(learner, NetworkLearner):
        raise MetaLensError(f"{type(learner).__name__} has no network whose features could relate tasks.")
    relation.bind(learner)
    batch = place(stack_trimmed([tasks[number] for number in range(n)]), learner.device, learner.dtype)
    with torch.no_grad(), torch.random.fork_rng(), module_mode(learner, training=False):
        torch.manual_seed(0)  # for shuffled relations
        adapted = AdaptedTasks(learner, batch, chunk=CHUNK)
        matrix = relation(adapted)
        agreement = descriptor_agreement(matrix, adapted)
    names = [tasks.task_name(number) for number in range(n)]
    return Relations(
        names, matrix.double().cpu().numpy(), relation.title, None if agreement is None else agreement.item()
    )
