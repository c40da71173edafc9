"""Task interpolation: train on mixtures of pairs of tasks."""

import torch
from torch import Tensor
from torch.distributions import Beta

from metalens.errors import MetaLensError, check_positive
from metalens.regularizers.base import Regularizer
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
        MetaLensError: alpha is out of range; inputs are of an integer type; the tasks do not have the same
            classes with the same number of examples each; a meta-batch has a single task.

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

    def transform_tasks(self, tasks: Task) -> Task:
        n, x, y = n_tasks(tasks), tasks.query.x, tasks.query.y
        if not x.is_floating_point():
            raise MetaLensError(
                f"MLTI interpolates inputs, which must be real numbers, got {x.dtype}; convert them."
            )
        others = torch.randint(n, (n,), device=y.device)
        lam = Beta(self.alpha, self.alpha).sample((n,))
        if y.is_floating_point():
            partners = [Examples(examples.x[others], examples.y[others]) for examples in tasks[:2]]
        else:
            partners = self._partners_by_class(tasks, others)
        support, query = (_interpolate(lam, a, b) for a, b in zip(tasks[:2], partners, strict=True))
        descriptors = tasks.as_batch().descriptors
        return Task(support, query, _mix(lam, descriptors, descriptors[others]))

    def _partners_by_class(self, tasks: Task, others: Tensor) -> list[Examples]:
        """Return the examples of the other tasks, each in the place of its partner."""
        n, device = len(others), others.device
        classes = torch.cat([tasks.support.y, tasks.query.y], 1).unique()
        met_classes = torch.rand(n, len(classes), device=device).argsort(1)
        partners = []
        for x, y in tasks[:2]:
            members = _members(y, classes)
            met = members[others.unsqueeze(1), met_classes]  # (T, c, k)
            places = torch.empty_like(y).scatter(1, members.flatten(1), met.flatten(1))
            partners.append(Examples(x[others.unsqueeze(1), places], y))
        return partners


def _members(y: Tensor, classes: Tensor) -> Tensor:
    """Return the places of the examples of every class, in random order, `(T, c, k)`."""
    order = (y + torch.rand(y.shape, dtype=torch.float64, device=y.device)).argsort(1)
    if y.shape[1] % len(classes) == 0:
        members = order.unflatten(1, (len(classes), -1))
        if (y.gather(1, order).view_as(members) == classes.unsqueeze(1)).all():
            return members
    raise MetaLensError(
        "MLTI pairs the classes of tasks, so the support sets of a batch must have equally many examples of "
        f"every class, and so must the query sets; got unequal numbers of {len(classes)} classes."
    )


def _interpolate(lam: Tensor, a: Examples, b: Examples) -> Examples:
    """Return `lam a + (1 - lam) b`, with lam of every task, `(T,)`; class indices stay those of a."""
    return Examples(_mix(lam, a.x, b.x), _mix(lam, a.y, b.y) if a.y.is_floating_point() else a.y)


def _mix(lam: Tensor, a: Tensor, b: Tensor) -> Tensor:
    share = lam.to(a).view(-1, *[1] * (a.dim() - 1))
    return share * a + (1 - share) * b
