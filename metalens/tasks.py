"""A task is two sets of examples: the support set to learn from and the query set to be tested on.

Both types are named tuples, so `torch.vmap`, `torch.utils._pytree` and the default collate function of
PyTorch treat them as trees of tensors. A *batch* of T tasks is a `Task` whose tensors have a leading axis of
length T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError, check_type

NO_DESCRIPTORS = torch.zeros(0)
TENSORS = ("support.x", "support.y", "query.x", "query.y", "descriptors")  # of a task, in their order


class Examples(NamedTuple):
    """Inputs and targets of n examples.

    Attributes:
        x: inputs, `(n, *input_shape)`.
        y: targets: class indices `(n,)` of an integer type, or real targets `(n, c)`.

    >>> Examples(torch.zeros(5, 1), torch.zeros(5, 1))
    Examples(x=(5, 1), y=(5, 1))
    """

    x: Tensor
    y: Tensor

    def __repr__(self) -> str:
        return f"Examples(x={_shown(self.x)}, y={_shown(self.y)})"


class Task(NamedTuple):
    """One learning task, or a batch of them when every tensor has a leading task axis.

    Attributes:
        support: the examples a model adapts to, `(s, ...)` or `(T, s, ...)`.
        query: the examples the adapted model is tested on, `(q, ...)` or `(T, q, ...)`.
        descriptors: numbers that describe the task, `(p,)` or `(T, p)`, by default p = 0; their Euclidean
            distance is that of two tasks. No learner sees them.

    >>> one = Examples(torch.zeros(5, 1), torch.zeros(5, 1))
    >>> Task(one, one)
    Task(support=Examples(x=(5, 1), y=(5, 1)), query=Examples(x=(5, 1), y=(5, 1)))
    >>> support, query, descriptors = Task(one, one)
    >>> descriptors.shape
    torch.Size([0])
    """

    support: Examples
    query: Examples
    descriptors: Tensor = NO_DESCRIPTORS

    def __repr__(self) -> str:
        descriptors = (
            "" if self.descriptors is NO_DESCRIPTORS else f", descriptors={_shown(self.descriptors)}"
        )
        return f"Task(support={self.support!r}, query={self.query!r}{descriptors})"

    def map(self, function: Callable[[Examples], Examples]) -> Task:
        """Return the task with both sets of examples changed by a function.

        >>> one = Examples(torch.zeros(5, 1), torch.zeros(5, 1))
        >>> Task(one, one).map(lambda examples: Examples(examples.x, examples.y + 1)).query.y.mean()
        tensor(1.)
        """
        return Task(function(self.support), function(self.query), self.descriptors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The five tensors: inputs and targets of the support and the query set, and the descriptors."""
        return (*self.support, *self.query, self.descriptors)

    def as_batch(self) -> Task:
        """Return a batch of T tasks with descriptors `(T, 0)` if it was created without any.

        >>> batch = Examples(torch.zeros(3, 5, 1), torch.zeros(3, 5, 1))
        >>> Task(batch, batch).as_batch().descriptors.shape
        torch.Size([3, 0])
        """
        if self.descriptors.shape != NO_DESCRIPTORS.shape:
            return self
        return self._replace(descriptors=self.descriptors.expand(n_tasks(self), -1))

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor]) -> Task:
        """Return the task with the given `tensors`."""
        return cls(Examples(*tensors[:2]), Examples(*tensors[2:4]), tensors[4])


def _shown(value: object) -> str:
    """Return the shape of a tensor; pytree also makes tasks of other values."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


def check_task(task: object, name: str) -> None:
    """Raise `MetaLensError` unless a value is a `Task` of two sets of examples, all of tensors.

    >>> check_task((torch.zeros(2, 1), torch.zeros(2, 1)), "Task 0")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Task 0 must be of type Task, got tuple; make Task(Examples(x, y), ...).
    """
    check_type(task, Task, name, "make Task(Examples(x, y), ...)")
    assert isinstance(task, Task)
    check_examples(task.support, f"{name}: support")
    check_examples(task.query, f"{name}: query")
    check_type(task.descriptors, Tensor, f"{name}: descriptors", "use torch.tensor")


def check_examples(examples: object, name: str) -> None:
    """Raise `MetaLensError` unless a value is two tensors, inputs and targets, as `Examples` are."""
    if not isinstance(examples, tuple) or len(examples) != 2:
        check_type(examples, Examples, name, "make Examples(x, y), such as task.support")
    for part, tensor in zip("xy", examples, strict=True):  # pyright: ignore[reportArgumentType] # a tuple
        check_tensor(tensor, f"{name}.{part}")


def check_tensor(value: object, name: str) -> None:
    """Raise `MetaLensError` unless a value is a tensor.

    >>> check_tensor({"image": torch.zeros(2, 3)}, "x")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: x must be of type Tensor, got dict; pack several inputs by metalens.Fields.
    """
    is_several = isinstance(value, Mapping | tuple | list)
    remedy = (
        "pack several inputs by metalens.Fields" if is_several else "use torch.tensor or torch.from_numpy"
    )
    check_type(value, Tensor, name, remedy)


def stack_tasks(tasks: Sequence[Task]) -> Task:
    """Stack T tasks of equal shapes into a batch, whose tensors have a leading axis of length T.

    Raises:
        MetaLensError: no tasks were given, or their shapes differ.

    >>> one = Examples(torch.zeros(5, 1), torch.zeros(5, 1))
    >>> stack_tasks([Task(one, one)] * 3).support.x.shape
    torch.Size([3, 5, 1])
    """
    if not tasks:
        raise MetaLensError("stack_tasks got no tasks; give at least one.")
    for number, task in enumerate(tasks):
        if type(task) is not Task or not type(task.support) is type(task.query) is Examples:
            check_task(task, f"Task {number} of {len(tasks)}")
    of_all = [task.tensors for task in tasks]
    for name, tensors in zip(TENSORS, zip(*of_all, strict=True), strict=True):
        shapes = {tuple(getattr(tensor, "shape", ())) for tensor in tensors}
        if len(shapes) > 1:
            raise MetaLensError(
                f"Tasks of one batch must have equal shapes, but {name} comes in {sorted(shapes)}; "
                "draw tasks of equal size or use one task per batch."
            )
    try:
        return Task.of_tensors([torch.stack(tensors) for tensors in zip(*of_all, strict=True)])
    except TypeError:
        for number, task in enumerate(tasks):
            check_task(task, f"Task {number} of {len(tasks)}")
        raise


def stack_trimmed(tasks: Sequence[Task]) -> Task:
    """Stack tasks after truncating their query sets to the length of the smallest.

    >>> one, two = (Examples(torch.zeros(n, 1), torch.zeros(n, 1)) for n in (5, 7))
    >>> stack_trimmed([Task(one, one), Task(one, two)]).query.x.shape
    torch.Size([2, 5, 1])
    """
    n = min((len(task.query.x) for task in tasks), default=0)
    return stack_tasks(
        [Task(task.support, Examples(task.query.x[:n], task.query.y[:n]), task.descriptors) for task in tasks]
    )


def place(tree: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a tree of tensors on a device, with floating-point ones of the given type.

    >>> place((torch.ones(1), torch.ones(1, dtype=torch.int64)), torch.device("cpu"), torch.float64)
    (tensor([1.], dtype=torch.float64), tensor([1]))
    """
    return pytree.tree_map(
        lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype), tree
    )


def place_tasks(tasks: Task, device: torch.device, dtype: torch.dtype) -> Task:
    """Return what `place` does of tasks, in less time: the same tasks where they are so, as nearly always.

    >>> one = Examples(torch.zeros(5, 1, dtype=torch.float64), torch.zeros(5, dtype=torch.int64))
    >>> place_tasks(Task(one, one), torch.device("cpu"), torch.float32).support.x.dtype
    torch.float32
    """
    tensors = tasks.tensors
    if all(t.device == device and (t.dtype == dtype or not t.is_floating_point()) for t in tensors):
        return tasks
    return Task.of_tensors(place(list(tensors), device, dtype))


def n_tasks(batch: Task) -> int:
    """Return the number T of tasks in a batch."""
    return batch.query.y.shape[0]


def check_targets(predictions: Tensor, y: Tensor, axis: int = 1) -> None:
    """Check that targets fit predictions `(n, c, ...)`; broadcasting would hide the mistake.

    Args:
        predictions: of n examples.
        y: their targets.
        axis: of the c outputs in the predictions.

    Raises:
        MetaLensError: real targets are not `(n, c, ...)`, or class indices not int64 `(n, ...)`.

    >>> check_targets(torch.zeros(4, 1), torch.ones(4))
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Real targets must have the shape of the predictions, (4, 1), got (4,).
    """
    if y.is_floating_point():
        if y.shape != predictions.shape:
            raise MetaLensError(
                f"Real targets must have the shape of the predictions, {tuple(predictions.shape)}, "
                f"got {tuple(y.shape)}."
            )
        return
    shape = (*predictions.shape[:axis], *predictions.shape[axis + 1 :])
    if y.dtype != torch.int64 or y.shape != shape:
        raise MetaLensError(
            f"Class indices must be int64 of shape {shape}, got {y.dtype} of {tuple(y.shape)}."
        )
