"""Class targets: indicators, class means and absent classes."""

import math

import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.networks import Network
from metalens.tasks import check_targets

MIN_PROBABILITY = 1e-6  # of a class of which a support set has no example


def number_of_classes(learner: str, network: Network, n_way: int | None) -> int:
    """Return n_way, by default the number of outputs of the network; raise `MetaLensError` if below two."""
    n = network.n_outputs if n_way is None else n_way
    if n < 2:
        raise MetaLensError(
            f"{learner} needs at least 2 classes, got n_way={n}; it is a classifier, so give a network with "
            "one output per class, or n_way."
        )
    return n


def number_of_outputs(learner: str, network: Network, n_outputs: int | None) -> int:
    """Return n_outputs, by default that of the network; raise `MetaLensError` if below one."""
    n = network.n_outputs if n_outputs is None else n_outputs
    if n < 1:
        raise MetaLensError(f"{learner}: n_outputs must be at least 1, got {n}.")
    return n


def indicator_targets(y: Tensor, z: Tensor, n_outputs: int) -> Tensor:
    """Return the targets of a regression, `(n, n_outputs)`.

    Args:
        y: real targets, returned as they are; or class indices, turned into 1 for the class and 0 for others.
        z: the encoded inputs that they belong to, `(n, ...)`.
        n_outputs: number of targets or classes.

    Raises:
        MetaLensError: targets of another shape or type, or classes with a single output.

    >>> indicator_targets(torch.tensor([1, 0]), torch.zeros(2, 4), n_outputs=2)
    tensor([[0., 1.],
            [1., 0.]])
    """
    check_targets(z.new_empty(len(z), n_outputs), y)
    if y.is_floating_point():
        return y
    if n_outputs < 2:
        raise MetaLensError(
            "Class targets need one output per class, and this learner has a single one; give a network with "
            "one output per class, or n_outputs."
        )
    return one_hot(y, n_outputs, z.dtype)


def check_one_class(name: str, y: Tensor) -> None:
    """Raise `MetaLensError` unless the class indices of tasks are `(T, n)`, one of each example."""
    if y.dim() != 2:
        raise MetaLensError(
            f"{name} needs one class of each example, got targets of shape {tuple(y.shape[1:])} for a task."
        )


def one_hot(y: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    """Return 1 for the class and 0 for others, `(..., n_classes)`, of class indices `(...)`.

    Unlike PyTorch's function of that name it reads no value of y, so that it can be compiled.

    >>> one_hot(torch.tensor([1]), 2, torch.float32)
    tensor([[0., 1.]])
    """
    return (y.unsqueeze(-1) == torch.arange(n_classes, device=y.device)).to(dtype)


def class_indicators(learner: str, y: Tensor, z: Tensor, n_way: int) -> Tensor:
    """Return `indicator_targets` for a classifier; raise `MetaLensError` for real targets."""
    if y.is_floating_point():
        raise MetaLensError(
            f"{learner} is a classifier, got real targets; for regression use another learner, such as R2D2 "
            "or MAML."
        )
    return indicator_targets(y, z, n_way)


def class_means(features: Tensor, indicators: Tensor) -> Tensor:
    """Return the mean features of every class, `(n_way, d)`; zeros for a class without examples.

    Args:
        features: `(s, d)`, or with the same leading axes as the indicators.
        indicators: `(s, n_way)`, see `class_indicators`.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[1.0, 0], [1, 0], [0, 1]])).tolist()
    [[2.0], [5.0]]
    """
    return indicators.mT @ features / indicators.sum(-2).clamp(min=1).unsqueeze(-1)


def with_absent_classes(logits: Tensor, present: Tensor) -> Tensor:
    """Return logits in which every class that the support set lacks is improbable: 1 to a million.

    Its logit is `log 1e-6 + logsumexp of the logits of the present classes`. So it is never predicted, and
    the loss of a query of this class is finite and has no gradient. Of logits `(n, n_way)`, those of present
    classes stay: `present` `(n_way,)` is 1 for them and 0 for others.

    >>> logits = with_absent_classes(torch.zeros(1, 3), torch.tensor([1.0, 0.0, 1.0]))
    >>> [round(p, 7) for p in logits.softmax(1)[0].tolist()]
    [0.4999995, 1e-06, 0.4999995]
    """
    of_others = logits.masked_fill(present == 0, -math.inf).logsumexp(1, keepdim=True)
    return torch.where(present == 0, of_others + math.log(MIN_PROBABILITY), logits)
