"""A task is two sets of examples: the support set to learn from and the query set to be judged on.

Both types are named tuples, so `torch.vmap`, `torch.utils._pytree` and the default collate function of
PyTorch treat them as trees of tensors. A *batch* of T tasks is a `Task` whose tensors have a leading
axis of length T; there is no second class for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError


class Examples(NamedTuple):
    """Inputs and targets of n examples.

    Attributes:
        x: inputs, `(n, *input_shape)`.
        y: targets: class indices `(n,)` of an integer type, or real targets `(n, c)`.
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """One learning task, or a batch of them when every tensor has a leading task axis.

    Attributes:
        support: the examples a model adapts to, `(s, ...)` or `(T, s, ...)`.
        query: the examples the adapted model is judged on, `(q, ...)` or `(T, q, ...)`.
    """

    support: Examples
    query: Examples


def stack_tasks(tasks: Sequence[Task]) -> Task:
    """Stack tasks of equal shapes into a batch.

    Args:
        tasks: T tasks.

    Returns:
        A `Task` whose tensors have a leading axis of length T.

    Raises:
        MetaLensError: no tasks were given, or their shapes differ.

    >>> one = Examples(torch.zeros(5, 1), torch.zeros(5, 1))
    >>> stack_tasks([Task(one, one)] * 3).support.x.shape
    torch.Size([3, 5, 1])
    """
    if not tasks:
        raise MetaLensError("stack_tasks got no tasks; give at least one.")
    leaves, structure = zip(*(pytree.tree_flatten(task) for task in tasks), strict=True)
    for name, tensors in zip(
        ("support.x", "support.y", "query.x", "query.y"), zip(*leaves, strict=True), strict=True
    ):
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise MetaLensError(
                f"Tasks of one batch must have equal shapes, but {name} comes in {sorted(shapes)}; "
                "draw tasks of equal size or use one task per batch."
            )
    stacked = [torch.stack(tensors) for tensors in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(stacked, structure[0])


def place(tree: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a tree of tensors on a device, with real numbers of the given type; class indices stay whole.

    >>> place((torch.ones(1), torch.ones(1, dtype=torch.int64)), torch.device("cpu"), torch.float64)
    (tensor([1.], dtype=torch.float64), tensor([1]))
    """
    return pytree.tree_map(
        lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype), tree
    )


def n_tasks(batch: Task) -> int:
    """Return the number T of tasks in a batch.

    >>> one = Examples(torch.zeros(5, 1), torch.zeros(5, 1))
    >>> n_tasks(stack_tasks([Task(one, one)] * 3))
    3
    """
    return batch.query.y.shape[0]
