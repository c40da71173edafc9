"""Task interpolation: train on mixtures of pairs of tasks."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta

from metalens.errors import MetaLensError, check_positive
from metalens.learners import NetworkLearner
from metalens.regularizers.base import Regularizer
from metalens.regularizers.classes import random_orders
from metalens.tasks import Examples, Task, n_tasks


class MLTI(Regularizer):
    """Interpolate every task of a batch with another one before adaptation.

    Task i is mixed with a task j of the batch, drawn at random and possibly itself, with one
    `lam ~ Beta(alpha, alpha)` for its support and query set:

        real targets:  x = lam x_i + (1 - lam) x_j,    y = lam y_i + (1 - lam) y_j
        classes:       x = lam x_i + (1 - lam) x_j,    y = y_i

    In regression examples are paired by their index. In classification a random one-to-one map, the same for
    support and query, pairs the classes of i with those of j, and their examples are paired at random.

    Args:
        alpha: shape of the Beta distribution; 1 is uniform, larger values mix more evenly.

    Raises:
        MetaLensError: alpha is out of range; inputs or their fields are integers; the tasks do not have the
            same classes with the same number of examples each; a meta-batch has a single task.

    >>> import torch
    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> tasks = Sinusoid().batch(range(4))
    >>> torch.equal(MLTI().transform_tasks(tasks).support.x, tasks.support.x)
    False

    Source: H. Yao, L. Zhang, C. Finn, "Meta-Learning with Fewer Tasks through Task Interpolation", 2022,
    arXiv 2106.02695; alpha = 2 in the authors' code. Deviations: tasks are interpolated at the inputs only,
    not at a random layer; labels of classes are never mixed, as tasks are assumed not to share them; images
    are added, while the authors' code for ProtoNet cuts and pastes patches.
    """

    min_meta_batch_size = 2

    def __init__(self, *, alpha: float = 2.0) -> None:
        super().__init__()
        check_positive(self, alpha=alpha)
        self.alpha = alpha

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        fields = learner.network.fields
        if fields is not None and fields.integers:
            raise MetaLensError(
                f"MLTI interpolates inputs, and the field {fields.integers[0]} holds whole numbers; use "
                "another regularizer, or leave the field out."
            )

    def check_tasks(self, tasks: Task) -> None:
        y = tasks.query.y
        if y.is_floating_point() or y.device.type != "cpu" or _Blocks.of(tasks).are_equal:
            return
        n = len(torch.cat([tasks.support.y, y], 1).unique())
        raise MetaLensError(
            "MLTI pairs the classes of tasks, so the support sets of a batch must have equally many examples "
            f"of every class, and so must the query sets; got unequal numbers of {n} classes."
        )

    def transform_tasks(self, tasks: Task) -> Task:
        n, x, y = n_tasks(tasks), tasks.query.x, tasks.query.y
        if not x.is_floating_point():
            raise MetaLensError(
                f"MLTI interpolates inputs, which must be real numbers, got {x.dtype}; convert them."
            )
        self.check_tasks(tasks)
        others = torch.randint(n, (n,), device=y.device)
        lam = Beta(self.alpha, self.alpha).sample((n,)).to(x)
        if y.is_floating_point():
            partners = [Examples(examples.x[others], examples.y[others]) for examples in tasks[:2]]
        else:
            blocks = _Blocks.of(tasks)
            partners = self._partners_by_class(tasks, others, blocks.n_classes)
            lam = lam.where(blocks.are_equal, torch.nan)  # what could not be refused is no number
        support, query = (_interpolate(lam, a, b) for a, b in zip(tasks[:2], partners, strict=True))
        descriptors = tasks.as_batch().descriptors
        return Task(support, query, _mix(lam, descriptors, descriptors[others]))

    def _partners_by_class(self, tasks: Task, others: Tensor, size: Tensor) -> list[Examples]:
        """Return the examples of the other tasks, each in the place of its partner; size classes are met."""
        met_classes = random_orders(len(others), size, min(y.shape[1] for _, y in tasks[:2]))
        partners = []
        for x, y in tasks[:2]:
            noise = torch.rand(y.shape, dtype=torch.float64, device=y.device)
            order = (y + noise).argsort(1)  # by class, and of each in random order
            block, place, width = _places(y.shape[1], size)
            met = met_classes[:, block.clamp(max=met_classes.shape[1] - 1)] * width + place
            met = order[others].gather(1, met.clamp(max=y.shape[1] - 1))
            places = torch.empty_like(y).scatter(1, order, met)
            partners.append(Examples(x[others.unsqueeze(1), places], y))
        return partners


class _Blocks(NamedTuple):
    """The examples of each task in the order of their classes: blocks of equal size, if they are balanced."""

    n_classes: Tensor  # of the support set of the first task, a scalar
    are_equal: Tensor  # whether all tasks have the same classes, in each set with as many examples, a scalar

    @classmethod
    def of(cls, tasks: Task) -> "_Blocks":
        labels = [y.sort(1).values for _, y in tasks[:2]]
        first = labels[0][0]
        n_classes = 1 + first.diff().ne(0).sum()
        _, _, width = _places(len(first), n_classes)
        fits = []
        for of_set in labels:
            block, _, size = _places(of_set.shape[1], n_classes)
            expected = first[(block * width).clamp(max=len(first) - 1)]
            fits += [(of_set == expected).all(), size * n_classes == of_set.shape[1]]
        return cls(n_classes, torch.stack(fits).all())


def _places(n: int, n_classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the block of each of n sorted examples, its place in the block, and the size of a block."""
    size = (n // n_classes).clamp(min=1)
    places = torch.arange(n, device=n_classes.device)
    return places // size, places % size, size


def _interpolate(lam: Tensor, a: Examples, b: Examples) -> Examples:
    """Return `lam a + (1 - lam) b`, with lam of every task, `(T,)`; class indices stay those of a."""
    return Examples(_mix(lam, a.x, b.x), _mix(lam, a.y, b.y) if a.y.is_floating_point() else a.y)


def _mix(lam: Tensor, a: Tensor, b: Tensor) -> Tensor:
    share = lam.to(a).view(-1, *[1] * (a.dim() - 1))
    return share * a + (1 - share) * b
