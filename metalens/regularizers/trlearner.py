"""Task-relation learner: models adapted to similar tasks should predict each other's data."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_counts, check_nonnegative, check_positive, check_type
from metalens.learners.classification import check_one_class, class_means, one_hot
from metalens.regularizers.base import Regularizer
from metalens.relations import Cosine, Relation
from metalens.relations.agreement import descriptor_agreement
from metalens.relations.weights import model_weights


class TRLearner(Regularizer):
    """Relation-aware consistency between the adapted models of a batch of tasks.

    With relations m of the tasks, by default those of `Cosine`, every *other* task's model predicts the
    queries of task i. The loss is that of the relation-weighted average:

        L_TR(i) = (1/q) sum_j loss( sum_{p != i} m_ip f_p(x_ij) / sum_{p != i} m_ip , y_ij )

    The term is `weight * (1/T) sum_i L_TR(i)`. Negative relations count as 0, and a task without positive
    relations averages all others equally. The tasks of all processes that share a batch are related.

    The defaults are the literal method, with the batch's query set as meta-data; no other form did better in
    our tests (see the page of results). The effect is that of all relations 1: none on curves and kinases,
    and on Omniglot +1.0 to +1.6 points of accuracy with ANIL and -0.3 to -1.2 with ProtoNet, less either way
    than that of label smoothing.

    Args:
        relation: by default `Cosine()`; controls are `Known`, `Uniform`, `Shuffled` and
            `Cosine(learned=False)`.
        weight: lambda, the strength of the term.
        neighbors: use only the k most related tasks of each task, which costs T k instead of T^2 query sets.
        n_query_hat: predict only this many random queries of each task at each step, an unbiased estimate
            for losses that are means over examples. Layers that normalize by the set they are given then
            see this smaller set.
        n_tasks_hat: predict the queries of only this many random tasks at each step, an unbiased estimate
            for every loss and every network.
        slot_temperature: map class slots softly between tasks, by the similarity of class prototypes:
            `softmax(cos / slot_temperature)` (classification only). By default slot k of one task
            corresponds to slot k of another.

    Raises:
        MetaLensError: a setting is out of range; a meta-batch is smaller than 3; the relation does not
            support the learner or the tasks.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> objective = Objective(MAML(mlp()), [TRLearner(weight=0.1)])
    >>> sorted(objective(Sinusoid().batch(range(4))))
    ['query', 'trlearner']

    Source: J. Wang, W. Qiang and others, "Rethinking Meta-Learning from a Learning Lens", 2024,
    arXiv 2409.08474. Not specified there: weight = 0.1; clipping and the fall-back for rows without positive
    relations; the loss of averaged logits in classification; the whole query set as meta-data (the adaptive
    sampler is `paper.samplers.ASr`); see also `Cosine`. All other options are ours.
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
        n_tasks_hat: int | None = None,
        slot_temperature: float | None = None,
    ) -> None:
        super().__init__()
        check_counts(self, neighbors=neighbors, n_query_hat=n_query_hat, n_tasks_hat=n_tasks_hat)
        check_positive(self, slot_temperature=slot_temperature)
        check_nonnegative(self, weight=weight)
        self.relation = Cosine() if relation is None else deepcopy(relation)  # pyright: ignore[reportIncompatibleVariableOverride]
        check_type(self.relation, Relation, "TRLearner: relation", "give an object, such as Cosine()")
        if self.relation.signed and neighbors is not None:
            raise MetaLensError(
                f"TRLearner: neighbors chooses among relations, and those of {type(self.relation).__name__} "
                "are weights of all tasks together; leave it out."
            )
        self.weight, self.neighbors, self.slot_temperature = weight, neighbors, slot_temperature
        self.n_query_hat, self.n_tasks_hat = n_query_hat, n_tasks_hat

    def check_meta_batch_size(self, meta_batch_size: int) -> None:
        if meta_batch_size < self.min_meta_batch_size:
            raise MetaLensError(
                f"TRLearner needs a meta-batch of at least 3 tasks, got {meta_batch_size}: with 2, each task "
                "has a single other and its relation cancels out of the weighted average."
            )

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        first = adapted.processes.rank * adapted.n_tasks
        matrix, signed = self.relation(adapted), self.relation.signed
        models, weights = model_weights(matrix, self.neighbors, first, signed=signed)
        y = adapted.tasks.query.y
        tasks, queries = _some(self.n_tasks_hat, 0, adapted), _some(self.n_query_hat, 1, adapted)
        if tasks is not None:
            weights, y = weights[tasks], y[tasks]
            models = None if models is None else models[tasks]
        if queries is not None:
            y = y[:, queries]
        predictions = adapted.cross_predictions(models, queries, tasks)  # (t, k, n, c), of t own tasks
        if self.slot_temperature is not None:
            predictions = predictions @ self._slot_maps(adapted, models, tasks, predictions.shape[-1]).mT
        average = torch.einsum("tk,tk...->t...", weights, predictions)
        return {"trlearner": self.weight * adapted.loss(average, y, tasks)}

    def _slot_maps(
        self, adapted: AdaptedTasks, models: Tensor | None, tasks: Tensor | None, n_classes: int
    ) -> Tensor:
        """Return soft maps from the c slots of each of t tasks to those of the others, `(t, k, c, c)`."""
        y = adapted.tasks.support.y
        if y.is_floating_point():
            raise MetaLensError("TRLearner: slot_temperature is for classification, got real targets.")
        check_one_class("TRLearner with slot_temperature", y)
        features = adapted.support_features
        prototypes = F.normalize(class_means(features, one_hot(y, n_classes, features.dtype)), dim=-1)
        others = adapted.processes.all_gather(prototypes)
        others = others.unsqueeze(0) if models is None else others[models]  # (1 or t, k, c, d)
        prototypes = prototypes if tasks is None else prototypes[tasks]
        return torch.softmax(prototypes.unsqueeze(1) @ others.mT / self.slot_temperature, dim=-1)

    def diagnostics(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        """Return statistics of the relations between different tasks of a batch.

        - `trlearner_mean` and `trlearner_spread`: mean and standard deviation; with a small spread the term
          averages all other tasks almost equally.
        - `trlearner_row_sum`, unless relations are weights of both signs: smallest sum of the positive
          relations of a task; near 0 that task averages all others equally.
        - `trlearner_omega`, if weights are learned: the mean of |omega - 1|.
        - `trlearner_agreement`, if tasks have descriptors: see `descriptor_agreement`.
        """
        matrix = adapted.processes.all_gather(self.relation(adapted))
        n = len(matrix)
        related = matrix.flatten()[1:].unflatten(0, (n - 1, n + 1))[:, :-1].reshape(n, n - 1)  # no diagonal
        found = {"trlearner_mean": related.mean(), "trlearner_spread": related.std(correction=0)}
        if not self.relation.signed:
            found["trlearner_row_sum"] = related.clamp(min=0).sum(1).min()
        found |= {f"trlearner_{name}": value for name, value in self.relation.diagnostics().items()}
        agreement = descriptor_agreement(matrix, adapted)
        return found if agreement is None else {**found, "trlearner_agreement": agreement}


def _some(n: int | None, dim: int, adapted: AdaptedTasks) -> Tensor | None:
    """Return n random indices along an axis of the query targets `(T, q, ...)`, or `None` for all."""
    y = adapted.tasks.query.y
    if n is None or n >= y.shape[dim]:
        return None
    return adapted.processes.broadcast(torch.randperm(y.shape[dim], device=y.device))[:n]
