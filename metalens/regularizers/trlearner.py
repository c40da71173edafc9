"""Task-relation learner: models adapted to similar tasks should predict each other's data."""

from __future__ import annotations

import math
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.learners.classification import one_hot
from metalens.regularizers.base import Regularizer, network_of

Relations = Literal["learned", "mutual", "known", "frozen", "uniform", "shuffled", "known_shuffled"]
TaskVector = Literal["features", "labeled", "adaptation"]
LabelSlots = Literal["none", "prototypes"]

SMALLEST_ROW_SUM = 1e-6


class TRLearner(Regularizer):
    """Relation-aware consistency between the adapted models of a batch of tasks.

    Relation of tasks i and j with task vectors v, K heads and learned weights `omega`:

        m_ij = (1/K) sum_k cos(omega_k * v_i, omega_k * v_j)

    Every *other* task's model predicts the queries of task i; the relation-weighted average is scored
    against i's true targets:

        L_TR(i) = (1/q) sum_j loss( sum_{p != i} m_ip f_p(x_ij) / sum_{p != i} m_ip , y_ij )

    The term is `weight * (1/T) sum_i L_TR(i)`. Negative relations count as 0, and a task without a
    positive relation averages all others equally.

    Relations can also say how well the models of two tasks predict each other's support sets, by how much
    more is lost than with the own model:

        m_ij = exp(-d_ij / tau),    d_ij = max(0, (L(f_j; S_i) - L(f_i; S_i) + L(f_i; S_j) - L(f_j; S_j)) / 2)

    Where the distribution knows its tasks, their descriptors t can take the place of what is learned, as the
    control of accurate relations:

        m_ij = exp(-||t_i - t_j||^2 / (2 s^2))

    Where several processes share a batch, the tasks of all of them are related.

    The defaults are the literal method (`TRLearner.paper`), with the batch's query set as meta-data, since no
    other form did better where we looked: see the tables "TRLearner against its controls" on the page of
    results. There the term was worth nothing on curves and kinases, with true relations as with all-ones; on
    Omniglot +1.0 to +1.6 points of accuracy with ANIL and -0.3 to -1.2 with ProtoNet, from 30 characters to
    all, as much as all-ones, and less either way than label smoothing.

    Args:
        n_features: length d of the task vectors; `for_learner` works it out.
        weight: lambda, the strength of the term.
        n_heads: K.
        relations: `"learned"`; `"mutual"` (from mutual predictions; outputs must mean the same in all
            tasks); or a control: `"known"` (from the descriptors of the tasks), `"frozen"`
            (plain cosine, omega fixed at 1), `"uniform"` (all relations 1), `"shuffled"` (relations dealt to
            the wrong tasks, in training also of omega), `"known_shuffled"` (known ones dealt so).
        task_vector: `"features"`: mean of the support features (ignores targets); `"labeled"`: mean
            features per class, or feature-by-target products in regression; `"adaptation"`: the
            displacement of the adapted parameters.
        label_slots: `"none"`: class slot k of one task meets slot k of another, whatever the classes;
            `"prototypes"`: slots are mapped softly by the similarity of class prototypes
            (classification only).
        slot_temperature: tau of that mapping, `softmax(cos / tau)`.
        temperature: tau; with it `m <- exp((m - 1) / tau)`, which spreads cosines that crowd near 1. Of
            mutual relations it is in the units of the loss, by default the mean of d between tasks.
        center: subtract the batch mean of the task vectors before comparing them.
        neighbors: use only the k most related tasks of each task, for a cost of T k instead of T^2
            query sets.
        descriptor_scale: s of known relations, in the units of the descriptors. By default `2 s^2` is the
            variance of the descriptors of a batch, summed over descriptors: half the mean squared distance
            between its tasks.
        n_query_hat: use only this many query examples of each task, drawn anew at each step; layers that
            normalize by the set at hand then see this smaller set.

    Raises:
        MetaLensError: a setting is out of range; a meta-batch is smaller than 3; the learner cannot
            provide the task vector; known relations of tasks without descriptors.

    >>> import torch
    >>> from metalens import AdaptedTasks, MAML, Sinusoid, TRLearner, mlp
    >>> regularizer = TRLearner(n_features=40, weight=0.1)
    >>> adapted = AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))
    >>> regularizer.relation_matrix(adapted).shape
    torch.Size([4, 4])

    Source: J. Wang, W. Qiang and others, "Rethinking Meta-Learning from a Learning Lens", 2024,
    arXiv 2409.08474. Deviations, where its public text is silent: K = 4, weight = 0.1; omega starts at
    1 plus noise of standard deviation 0.1, so that heads differ; clipping and the fall-back for rows
    without positive relations; the loss of averaged logits in classification; the whole query set
    serves as meta-data (the adaptive sampler is `ASr`). All options beside `relations="learned"` and
    `task_vector="features"` are ours.
    """

    min_meta_batch_size = 3
    gathers = True

    def __init__(
        self,
        n_features: int,
        *,
        weight: float = 0.1,
        n_heads: int = 4,
        relations: Relations = "learned",
        task_vector: TaskVector = "features",
        label_slots: LabelSlots = "none",
        slot_temperature: float = 0.1,
        temperature: float | None = None,
        center: bool = False,
        neighbors: int | None = None,
        descriptor_scale: float | None = None,
        n_query_hat: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("relations", relations, Relations),
            ("task_vector", task_vector, TaskVector),
            ("label_slots", label_slots, LabelSlots),
        ):
            if value not in get_args(choices):
                raise MetaLensError(
                    f"TRLearner: {name} must be one of {', '.join(get_args(choices))}, got {value!r}."
                )
        for name, size in (("n_features", n_features), ("n_heads", n_heads), ("neighbors", neighbors),
                           ("n_query_hat", n_query_hat)):  # fmt: skip
            if size is not None and size < 1:
                raise MetaLensError(f"TRLearner: {name} must be at least 1, got {size}.")
        for name, scale in (("temperature", temperature), ("slot_temperature", slot_temperature),
                            ("descriptor_scale", descriptor_scale)):  # fmt: skip
            if scale is not None and not 0 < scale < math.inf:
                raise MetaLensError(f"TRLearner: {name} must be above 0 and finite, got {scale}.")
        if not 0 <= weight < math.inf:
            raise MetaLensError(f"TRLearner: weight must be 0 or more and finite, got {weight}.")
        self.n_features, self.weight = n_features, weight
        self.relations: Relations = relations
        self.task_vector: TaskVector = task_vector
        self.label_slots: LabelSlots = label_slots
        self.slot_temperature, self.temperature, self.center = slot_temperature, temperature, center
        self.neighbors, self.descriptor_scale, self.n_query_hat = neighbors, descriptor_scale, n_query_hat
        self.omega: nn.Parameter | None = None
        if relations in ("learned", "shuffled"):
            self.omega = nn.Parameter(1.0 + 0.1 * torch.randn(n_heads, n_features))

    @classmethod
    def paper(cls, n_features: int, *, weight: float = 0.1, n_heads: int = 4) -> Self:
        """Return the literal method: mean features, all pairs, whole query sets, no temperature.

        >>> TRLearner.paper(n_features=40).task_vector
        'features'
        """
        return cls(
            n_features,
            weight=weight,
            n_heads=n_heads,
            relations="learned",
            task_vector="features",
            label_slots="none",
            temperature=None,
            center=False,
            neighbors=None,
            descriptor_scale=None,
            n_query_hat=None,
        )

    @classmethod
    def for_learner(cls, learner: Learner, **settings: Any) -> Self:
        return cls(_vector_length(learner, settings.get("task_vector", "features")), **settings)

    def check(self, learner: Learner) -> None:
        super().check(learner)
        length = _vector_length(learner, self.task_vector)
        if length != self.n_features:
            raise MetaLensError(
                f"TRLearner: n_features is {self.n_features}, but the task vectors ({self.task_vector}) of "
                f"this {type(learner).__name__} have length {length}."
            )

    def check_meta_batch_size(self, meta_batch_size: int) -> None:
        if meta_batch_size < self.min_meta_batch_size:
            raise MetaLensError(
                f"TRLearner needs a meta-batch of at least 3 tasks, got {meta_batch_size}: with 2, each "
                "task has "
                "a single other and its relation cancels out of the weighted average."
            )

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        matrix = self.relation_matrix(adapted)
        models, weights = self._related_models(matrix, adapted.processes.rank * adapted.n_tasks)
        y = adapted.tasks.query.y
        queries = None
        if self.n_query_hat is not None and self.n_query_hat < y.shape[1]:
            order = adapted.processes.broadcast(torch.randperm(y.shape[1], device=y.device))
            queries = order[: self.n_query_hat]
            y = y[:, queries]
        predictions = adapted.cross_predictions(models, queries)  # (T, k, q, c), of T own tasks
        if self.label_slots == "prototypes":
            slots = self._slot_maps(adapted, models, predictions.shape[-1])  # (T, k, c, c)
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
        matrix = adapted.processes.all_gather(self.relation_matrix(adapted))
        pairs = torch.triu_indices(*matrix.shape, offset=1, device=matrix.device).unbind()
        related, positive = matrix[pairs], matrix.clamp(min=0)
        found = {
            "trlearner_mean": related.mean(),
            "trlearner_spread": related.std(correction=0),
            "trlearner_row_sum": (positive.sum(1) - positive.diagonal()).min(),
        }
        if self.omega is not None:
            found["trlearner_omega"] = (self.omega - 1).abs().mean()
        agreement = descriptor_agreement(matrix, adapted)
        return found if agreement is None else {**found, "trlearner_agreement": agreement}

    def relation_matrix(self, adapted: AdaptedTasks) -> Tensor:
        """Return the relations m of these tasks's tasks, `(T, T)`: symmetric, with unit diagonal.

        A task whose vector is zero is related to none, itself included. Where several processes share a
        batch, these are the rows of a process's own T tasks, with a column for each task of all processes.
        """
        if self.relations == "uniform":
            return adapted.query_predictions.new_ones(adapted.n_tasks, adapted.n_all_tasks)
        if self.relations == "mutual":
            return self._mutual_relations(adapted)
        is_known = self.relations in ("known", "known_shuffled")
        matrix = self._known_relations(adapted) if is_known else self._cosines(adapted)
        if self.relations in ("shuffled", "known_shuffled"):
            # A cycle through all tasks in random order: none keeps its own place.
            cycle = adapted.processes.broadcast(torch.randperm(adapted.n_all_tasks, device=matrix.device))
            other = torch.empty_like(cycle).scatter(0, cycle, cycle.roll(1))
            matrix = adapted.own(adapted.processes.all_gather(matrix)[other][:, other])
        return matrix

    def _known_relations(self, adapted: AdaptedTasks) -> Tensor:
        own = adapted.tasks.descriptors
        if own is None:
            raise MetaLensError(
                f"TRLearner: relations={self.relations!r} needs tasks with descriptors, got tasks without; "
                "let "
                "their distribution give Task(support, query, descriptors), or use relations='learned'."
            )
        descriptors = adapted.processes.all_gather(own)
        distances = (own.unsqueeze(1) - descriptors).square().sum(-1)
        scale = descriptors.var(0).sum() if self.descriptor_scale is None else 2 * self.descriptor_scale**2
        return torch.exp(-distances / (scale + torch.finfo(descriptors.dtype).tiny))  # tasks may be all alike

    def _mutual_relations(self, adapted: AdaptedTasks) -> Tensor:
        losses = adapted.processes.all_gather(adapted.cross_support_losses())  # [i, p]: model p, support of i
        excess = losses - losses.diagonal().unsqueeze(1)
        distances = ((excess + excess.T) / 2).clamp(min=0)
        n = len(distances)
        scale = distances.sum() / (n * (n - 1)) if self.temperature is None else self.temperature
        return adapted.own(torch.exp(-distances / (scale + torch.finfo(distances.dtype).tiny)))

    def _cosines(self, adapted: AdaptedTasks) -> Tensor:
        vectors = self._task_vectors(adapted)  # (T, slots, d), of all processes' tasks
        if self.omega is not None and vectors.shape[-1] != self.n_features:
            raise MetaLensError(
                f"TRLearner: n_features is {self.n_features}, but the task vectors have length "
                f"{vectors.shape[-1]}, as another regularizer has changed the network; give that length."
            )
        if self.center:
            vectors = vectors - vectors.mean(0)
        if self.omega is None:
            heads = vectors.flatten(1).unsqueeze(0)  # (1, T, slots * d)
        else:
            heads = (self.omega[:, None, None] * vectors).flatten(2)  # (K, T, slots * d)
        heads = F.normalize(heads, dim=-1)
        matrix = (adapted.own(heads, dim=1) @ heads.mT).mean(0)
        if self.temperature is not None:
            matrix = torch.exp((matrix - 1) / self.temperature)
        return matrix

    def _task_vectors(self, adapted: AdaptedTasks) -> Tensor:
        """Return `(T, slots, d)` for the T tasks of all processes.

        A slot is a class or target where the vector is labeled, else there is one.
        """
        if self.task_vector == "adaptation":
            before, after = adapted.learner.adapted_parameters(), adapted.all_states
            moves = [(after[name] - value).flatten(1) for name, value in before.items()]
            return torch.cat(moves, dim=1).unsqueeze(1)
        features, y = adapted.support_features, adapted.tasks.support.y
        if self.task_vector == "features":
            own = features.mean(1, keepdim=True)
        elif y.is_floating_point():
            own = y.mT @ features / y.shape[1]
        else:
            own = _class_means(features, y, adapted.query_predictions.shape[-1])
        return adapted.processes.all_gather(own)

    def _related_models(self, matrix: Tensor, first: int = 0) -> tuple[Tensor | None, Tensor]:
        """Return which models predict each task's queries, and their weights `(T, k)`, rows summing to 1.

        The models are indices `(T, k)` of the k nearest tasks, or `None` for all tasks in their order, where
        a task's own model has the weight 0. The rows of the matrix are tasks `first ... first + T - 1`.
        """
        n = matrix.shape[1]
        itself = torch.eye(n, dtype=torch.bool, device=matrix.device)[first : first + len(matrix)]
        if self.neighbors is None or self.neighbors >= n - 1:
            models, related, equal = None, matrix.masked_fill(itself, 0.0), (~itself) / (n - 1)
        else:
            related, models = matrix.masked_fill(itself, -torch.inf).topk(self.neighbors, dim=1)
            equal = torch.full_like(related, 1 / self.neighbors)
        related = related.clamp(min=0)
        total = related.sum(1, keepdim=True)
        # Divide by a safe total also where the other branch is taken: its gradient must stay finite.
        weights = related / total.clamp(min=SMALLEST_ROW_SUM)
        return models, torch.where(total < SMALLEST_ROW_SUM, equal, weights)

    def _slot_maps(self, adapted: AdaptedTasks, models: Tensor | None, n_classes: int) -> Tensor:
        """Return soft maps from each task's class slots to those of its related tasks, `(T, k, c, c)`."""
        y = adapted.tasks.support.y
        if y.is_floating_point():
            raise MetaLensError(
                "TRLearner: label_slots='prototypes' is for classification, got real targets."
            )
        prototypes = F.normalize(_class_means(adapted.support_features, y, n_classes), dim=-1)
        others = adapted.processes.all_gather(prototypes)
        others = others.unsqueeze(0) if models is None else others[models]  # (1 or T, k, c, d)
        similarity = prototypes.unsqueeze(1) @ others.mT  # (T, k, c, c)
        return torch.softmax(similarity / self.slot_temperature, dim=-1)


def descriptor_agreement(matrix: Tensor, adapted: AdaptedTasks) -> Tensor | None:
    """Return the rank correlation of the relations of all tasks with the nearness of their descriptors.

    `None` where tasks have no descriptors, or where relations or distances are all equal.
    """
    if adapted.tasks.descriptors is None:
        return None
    descriptors = adapted.processes.all_gather(adapted.tasks.descriptors)
    pairs = torch.triu_indices(*matrix.shape, offset=1, device=matrix.device).unbind()
    distances = (descriptors.unsqueeze(1) - descriptors).square().sum(-1)
    agreement = rank_correlation(matrix[pairs], -distances[pairs])
    return agreement if agreement.isfinite() else None


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation of two lists of numbers; nan where one of them is constant.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 5.0, 5.0]))
    tensor(0.8660, dtype=torch.float64)
    """
    ranks = torch.stack([_ranks(numbers) for numbers in (a, b)])
    return torch.corrcoef(ranks)[0, 1]


def _ranks(numbers: Tensor) -> Tensor:
    """Return the ranks of numbers; equal ones share the mean of theirs."""
    _, which, counts = numbers.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]


def _class_means(features: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Return the mean features of every class, `(T, c, d)`; zeros for a class without examples."""
    members = one_hot(y, n_classes, features.dtype)  # (T, s, c)
    return members.mT @ features / members.sum(1).clamp(min=1).unsqueeze(-1)


def _vector_length(learner: Learner, task_vector: str) -> int:
    if task_vector != "adaptation":
        return network_of(learner, TRLearner).n_features
    length = sum(p.numel() for p in learner.adapted_parameters().values())
    if length == 0:
        raise MetaLensError(
            "TRLearner: task_vector='adaptation' needs parameters that adapt, and "
            f"{type(learner).__name__} has none; use 'features' or 'labeled'."
        )
    return length
