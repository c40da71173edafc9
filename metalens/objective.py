"""The outer loss of a learner with regularizers."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.batching import Batching
from metalens.errors import MetaLensError, check_type
from metalens.learners import Learner, NetworkLearner
from metalens.learners.given import check_batch
from metalens.learners.labels import check_labels
from metalens.processes import ALONE, Processes
from metalens.regularizers import Regularizer
from metalens.regularizers.base import relation_of
from metalens.relations import Relation
from metalens.tasks import Task


def outer_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the loss terms, a scalar or `(R,)` like each.

    >>> import torch
    >>> outer_loss({"query": torch.tensor(1.0), "trlearner": torch.tensor(0.5)})
    tensor(1.5000)
    """
    return torch.stack(list(terms.values())).sum(0)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def terms_and_gradient(
    module: nn.Module, tasks: Task, weights: Sequence[Tensor]
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Return the loss terms of `module(tasks)`, and the gradient of the outer loss by each weight."""
    terms = module(tasks)
    return terms, torch.autograd.grad(outer_loss(terms).sum(), weights, materialize_grads=True)


class Objective(nn.Module):
    """One bi-level step: adapt to every task of a batch, and score the adapted models.

    `(1/T) sum_i L(query_i; F(support_i)) + sum_r terms_r`, where L is the learner's outer loss. A task
    sampler may give tasks weights other than 1/T.

    Args:
        learner: the learner to train.
        regularizers: applied in order.

    Attributes:
        batching: how the learner is mapped over tasks: `"auto"`, `"vmap"` or `"loop"`; set by `fit`.
        chunk: tasks that are computed at a time, in less memory but more time, as the gradient recomputes
            them, or `None` for all; set by `fit`.
        processes: those that share each batch, of which `forward` gets this process's tasks; set by `fit`.

    Raises:
        MetaLensError: a regularizer cannot act on the learner.

    >>> from metalens import MAML, Objective, Sinusoid, TRLearner, mlp
    >>> objective = Objective(MAML(mlp()), [TRLearner(weight=0.1)])
    >>> sorted(objective(Sinusoid().batch(range(4))))
    ['query', 'trlearner']
    """

    def __init__(self, learner: Learner, regularizers: Sequence[Regularizer] = ()) -> None:
        super().__init__()
        check_type(learner, Learner, "The learner of an objective", "give one, such as MAML(mlp())")
        check_type(regularizers, Iterable, "regularizers", "give a list of them")
        for regularizer in regularizers:
            check_type(regularizer, Regularizer, "A regularizer", "give one, such as TRLearner(weight=0.1)")
            if not isinstance(learner, NetworkLearner) or learner.regularizer_refusal is not None:
                names = f"{type(regularizer).__name__} cannot act on {type(learner).__name__}"
                raise MetaLensError(f"{names}: {learner.regularizer_refusal}")
            regularizer.bind(learner)
            before = _parameters(learner)
            network = regularizer.wrap_network(learner.network)
            if network is not learner.network or _parameters(learner) != before:
                learner.set_network(network)
        self.learner = learner
        self.regularizers = nn.ModuleList(regularizers)
        self.batching: Batching = "auto"
        self.chunk: int | None = None
        self.processes: Processes = ALONE

    @property
    def relation(self) -> Relation | None:
        """The first relation of a regularizer that discriminates between tasks."""
        return relation_of(self._regularizers())

    @property
    def min_meta_batch_size(self) -> int:
        """The smallest number of tasks per batch."""
        return max([1, *(regularizer.min_meta_batch_size for regularizer in self._regularizers())])

    def check_meta_batch_size(self, meta_batch_size: int, n_processes: int = 1) -> None:
        """Raise `MetaLensError` if `n_processes` cannot share a batch, or a regularizer needs more tasks."""
        share = len(Processes(world_size=n_processes).shard(range(meta_batch_size)))
        for regularizer in self._regularizers():
            regularizer.check_meta_batch_size(meta_batch_size if regularizer.gathers else share)

    def check_tasks(self, tasks: Task, numbers: Sequence[int]) -> None:
        """Refuse a batch by its values before it goes to a device; `numbers` are those of its tasks.

        Raises:
            MetaLensError: a class is no output of the learner, or a regularizer cannot act on the tasks.
        """
        check_labels(self.learner, tasks, numbers)
        for regularizer in self._regularizers():
            regularizer.check_tasks(tasks)

    def forward(self, tasks: Task, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the loss terms by name; the outer loss is their sum.

        Args:
            tasks: a batch of T tasks.
            weights: of the tasks in means, `(T,)`, adding up to 1; equal by default.

        Returns:
            Scalars: `"query"` and one for each term of a regularizer.

        Raises:
            MetaLensError: the batch is too small for a regularizer, or two terms have the same name.
        """
        if not isinstance(tasks, Task) or len(tasks.support.y) != len(tasks.query.y):
            check_batch(tasks, self.learner.min_support)
        return self.loss_terms(self.transform_tasks(tasks), weights)

    def transform_tasks(self, tasks: Task) -> Task:
        """Return the tasks after the regularizers' changes: the first half of `forward`."""
        for regularizer in self._regularizers():
            tasks = regularizer.transform_tasks(tasks)
        return tasks

    def loss_terms(self, tasks: Task, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the loss terms of transformed tasks: the second half of `forward`."""
        adapted = self._adapted(tasks, weights)
        self.check_meta_batch_size(adapted.n_all_tasks, self.processes.world_size)
        terms: dict[str, Tensor] = {}
        for regularizer in self._regularizers():
            new = regularizer.loss_terms(adapted)
            if clash := terms.keys() & new.keys():
                raise MetaLensError(f"Two regularizers return a term named {', '.join(sorted(clash))}.")
            terms |= new
        return terms if "query" in terms else {"query": adapted.last_outer_loss(), **terms}

    @torch.no_grad()
    def diagnostics(self, tasks: Task) -> dict[str, float]:
        """Return the regularizers' diagnostics of a batch by name; the random stream is left unchanged."""
        if not self.regularizers:
            return {}
        with torch.random.fork_rng():
            adapted = self._adapted(self.transform_tasks(tasks))
            found = [regularizer.diagnostics(adapted) for regularizer in self._regularizers()]
        return {name: value.item() for of_one in found for name, value in of_one.items()}

    def _adapted(self, tasks: Task, weights: Tensor | None = None) -> AdaptedTasks:
        how = {"chunk": self.chunk, "processes": self.processes, "weights": weights}
        return AdaptedTasks(self.learner, tasks, self.batching, module=self, **how)

    @property
    def communicates(self) -> bool:
        """Whether the processes exchange more than the gradient within a step."""
        return self.processes.world_size > 1 and any(each.gathers for each in self._regularizers())

    def _regularizers(self) -> list[Regularizer]:
        return list(self.regularizers)  # pyright: ignore[reportReturnType] # ModuleList is untyped


def _parameters(learner: NetworkLearner) -> list[tuple[str, int]]:
    """Return the names and identities of a network's parameters, to detect changes."""
    return [(name, id(parameter)) for name, parameter in learner.network.named_parameters()]
