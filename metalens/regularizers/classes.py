"""Random orders of the classes of tasks, without reading a value: a GPU would have to be waited for."""

import torch
from torch import Tensor

from metalens.learners import NetworkLearner
from metalens.learners.labels import n_labels
from metalens.regularizers.base import Regularizer
from metalens.tasks import Task


class OfClasses(Regularizer):
    """Base of the regularizers that exchange the classes of a task."""

    _n_labels: int = 0

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        self._n_labels = n_labels(learner)

    def width(self, tasks: Task) -> int:
        """Return a number that class indices stay below: of outputs, or without a learner of examples."""
        n_examples = tasks.support.y.shape[1] + tasks.query.y.shape[1]
        return self._n_labels if self._n_labels > 1 else n_examples


def n_classes(tasks: Task) -> Tensor:
    """Return the number of classes in a batch, the largest class index plus 1, as a scalar of its device.

    >>> from metalens import Examples
    >>> n_classes(Task(*[Examples(torch.zeros(1, 2, 1), torch.tensor([[0, label]])) for label in (1, 2)]))
    tensor(3)
    """
    return torch.cat([tasks.support.y, tasks.query.y], 1).max() + 1


def random_orders(n: int, size: Tensor, width: int) -> Tensor:
    """Return a random order of the classes for each of n tasks, `(n, width)`.

    Args:
        n: number of tasks.
        size: number c of classes, a scalar on the device of the result.
        width: at least c; of each row the first c entries are 0 to c - 1 in random order, and the others
            their own places.

    >>> orders = random_orders(5, torch.tensor(3), 4)
    >>> orders.sort(1).values.unique(dim=0), orders[:, 3].unique()
    (tensor([[0, 1, 2, 3]]), tensor([3]))
    """
    places = torch.arange(width, device=size.device)
    noise = torch.rand(n, width, device=size.device)
    return torch.where(places < size, noise, 1.0 + places).argsort(1)
