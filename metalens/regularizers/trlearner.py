"""Task-relation learner: models adapted to similar tasks should predict each other's data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_positive
from metalens.regularizers.base import Regularizer
from metalens.relations import Cosine, Relation
from metalens.relations.agreement import descriptor_agreement
from metalens.relations.slots import slot_maps

MIN_ROW_SUM = 1e-6


class TRLearner(Regularizer):
    """Relation-aware consistency between the adapted models of a batch of tasks.

    With relations m of the tasks, by default those of `Cosine`, every *other* task's model predicts the
    queries of task i; the relation-weighted average is scored against i's true targets:

        L_TR(i) = (1/q) sum_j loss( sum_{p != i} m_ip f_p(x_ij) / sum_{p != i} m_ip , y_ij )

    The term is `weight * (1/T) sum_i L_TR(i)`. Negative relations count as 0, and a task without a
    positive relation averages all others equally. Where several processes share a batch, the tasks of all
    of them are related.

    The defaults are the literal method, with the batch's query set as meta-data, since no other form did
    better where we looked: see the tables "TRLearner against its controls" on the page of results. There the
    term was worth nothing on curves and kinases, with true relations as with all-ones; on Omniglot +1.0 to
    +1.6 points of accuracy with ANIL and -0.3 to -1.2 with ProtoNet, from 30 characters to all, as much as
    all-ones, and less either way than label smoothing.

    Args:
        relation: what relates tasks, by default `Cosine()`. As controls there are `Known`, `Uniform` and
            `Shuffled`, and `Cosine(learned=False)`.
        weight: lambda, the strength of the term.
        neighbors: use only the k most related tasks of each task, for a cost of T k instead of T^2
            query sets.
        n_query_hat: use only this many query examples of each task, drawn anew at each step; layers that
            normalize by the set at hand then see this smaller set.
        slot_temperature: map class slots softly between tasks, by the similarity of class prototypes:
            `softmax(cos / slot_temperature)` (classification only). By default slot k of one task meets
            slot k of another, whatever the classes.

    Raises:
        MetaLensError: a setting is out of range; a meta-batch is smaller than 3; the tasks cannot be related
            so.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> objective = Objective(MAML(mlp()), [TRLearner(weight=0.1)])
    >>> sorted(objective(Sinusoid().batch(range(4))))
    ['query', 'trlearner']

    Source: J. Wang, W. Qiang and others, "Rethinking Meta-Learning from a Learning Lens", 2024,
    arXiv 2409.08474. Deviations, where its public text is silent: weight = 0.1; clipping and the fall-back
    for rows without positive relations; the loss of averaged logits in classification; the whole query set
    serves as meta-data (the adaptive sampler is `paper.samplers.ASr`); see also `Cosine`. All other options
    are ours.
    """

    min_meta_batch_size = 3
    gathers = True
    relation: Relation  # never None here

    def __init__(
        self,
        relation: Relation | None = None,
        *,
        weight: float = 0.1,
        neighbors: int | None = None,
        n_query_hat: int | None = None,
        slot_temperature: float | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("neighbors", neighbors), ("n_query_hat", n_query_hat)):
            if size is not None and size < 1:
                raise MetaLensError(f"TRLearner: {name} must be at least 1, got {size}.")
        check_positive(self, slot_temperature=slot_temperature)
        if not 0 <= weight < math.inf:
            raise MetaLensError(f"TRLearner: weight must be 0 or more and finite, got {weight}.")
        self.relation = Cosine() if relation is None else relation  # pyright: ignore[reportIncompatibleVariableOverride]
        self.weight, self.neighbors, self.n_query_hat = weight, neighbors, n_query_hat
        self.slot_temperature = slot_temperature

    def check_meta_batch_size(self, meta_batch_size: int) -> None:
        if meta_batch_size < self.min_meta_batch_size:
            raise MetaLensError(
                f"TRLearner needs a meta-batch of at least 3 tasks, got {meta_batch_size}: with 2, each task "
                "has a single other and its relation cancels out of the weighted average."
            )

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        first = adapted.processes.rank * adapted.n_tasks
        models, weights = related_models(self.relation(adapted), self.neighbors, first)
        y = adapted.tasks.query.y
        queries = None
        if self.n_query_hat is not None and self.n_query_hat < y.shape[1]:
            order = adapted.processes.broadcast(torch.randperm(y.shape[1], device=y.device))
            queries = order[: self.n_query_hat]
            y = y[:, queries]
        predictions = adapted.cross_predictions(models, queries)  # (T, k, q, c), of T own tasks
        if self.slot_temperature is not None:
            slots = slot_maps(adapted, models, predictions.shape[-1], self.slot_temperature)
            predictions = predictions @ slots.mT
        average = torch.einsum("tk,tkqc->tqc", weights, predictions)
        return {"trlearner": self.weight * adapted.loss(average, y)}

    def diagnostics(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """Return what the relations of a batch are like, those of a task to itself left out.

        `trlearner_mean` and `trlearner_spread`, their mean and standard deviation: relations that hardly
        spread are flat, and the term averages all other tasks alike. `trlearner_row_sum`, the smallest sum of
        the positive relations of a task; near 0 that task averages all others equally. `trlearner_omega`,
        the mean of |omega - 1|, where there is an omega. `trlearner_agreement`, where tasks have descriptors
        and neither relations nor distances are all equal: Spearman's rank correlation of the relations with
        the nearness of descriptors.
        """
        matrix = adapted.processes.all_gather(self.relation(adapted))
        pairs = torch.triu_indices(*matrix.shape, offset=1, device=matrix.device).unbind()
        related, positive = matrix[pairs], matrix.clamp(min=0)
        found = {
            "trlearner_mean": related.mean(),
            "trlearner_spread": related.std(correction=0),
            "trlearner_row_sum": (positive.sum(1) - positive.diagonal()).min(),
            **{f"trlearner_{name}": value for name, value in self.relation.diagnostics().items()},
        }
        agreement = descriptor_agreement(matrix, adapted)
        return found if agreement is None else {**found, "trlearner_agreement": agreement}


def related_models(matrix: Tensor, neighbors: int | None, first: int = 0) -> tuple[Tensor | None, Tensor]:
    """Return which models predict each task's queries, and their weights `(T, k)`, rows summing to 1.

    The models are indices `(T, k)` of the k nearest tasks, or `None` for all tasks in their order, where a
    task's own model has the weight 0.

    Args:
        matrix: relations `(T, n)` of the tasks `first ... first + T - 1` to all n tasks.
        neighbors: k, or `None` for all tasks.
        first: number of the first row's task.

    >>> related_models(torch.tensor([[1.0, -0.5, -0.2], [-0.5, 1.0, 0.3], [-0.2, 0.3, 1.0]]), None)[1]
    tensor([[0.0000, 0.5000, 0.5000],
            [0.0000, 0.0000, 1.0000],
            [0.0000, 1.0000, 0.0000]])
    """
    n = matrix.shape[1]
    itself = torch.eye(n, dtype=torch.bool, device=matrix.device)[first : first + len(matrix)]
    if neighbors is None or neighbors >= n - 1:
        models, related, equal = None, matrix.masked_fill(itself, 0.0), (~itself) / (n - 1)
    else:
        related, models = matrix.masked_fill(itself, -torch.inf).topk(neighbors, dim=1)
        equal = torch.full_like(related, 1 / neighbors)
    related = related.clamp(min=0)
    total = related.sum(1, keepdim=True)
    # Divide by a safe total also where the other branch is taken: its gradient must stay finite.
    weights = related / total.clamp(min=MIN_ROW_SUM)
    return models, torch.where(total < MIN_ROW_SUM, equal, weights)
