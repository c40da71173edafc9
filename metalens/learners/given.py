"""Checks of the tasks that a learner is given, so that a mistake in them ends in a sentence."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.networks.state import first_sentence
from metalens.tasks import TENSORS, Task, check_task


def check_batch(tasks: Task, min_support: int) -> None:
    """Refuse a batch of T tasks by its types and shapes; no value is read.

    Args:
        tasks: the batch.
        min_support: the fewest support examples that the learner can adapt to.

    Raises:
        MetaLensError: it is no batch, inputs and targets differ in number or kind, or there are too few.

    >>> from metalens import Examples
    >>> examples = Examples(torch.zeros(1, 2, 4), torch.zeros(1, 3, 1))
    >>> check_batch(Task(examples, examples), 1)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Tasks need a target of each input, and support has 2 inputs and 3 targets.
    """
    check_task(tasks, "A batch of tasks")
    tensors = tasks.tensors[:4]
    if len({tensor.shape[:1] for tensor in tensors}) > 1 or min(tensor.dim() for tensor in tensors) < 2:
        raise MetaLensError(
            f"A batch of tasks must have an axis for them, got {_shapes(tasks)}; use tasks.batch(numbers), "
            "or stack_tasks([task]) for one task."
        )
    for name, (x, y), least in (("support", tasks.support, min_support), ("query", tasks.query, 1)):
        if x.shape[1] != y.shape[1]:
            raise MetaLensError(
                f"Tasks need a target of each input, and {name} has {x.shape[1]} inputs and {y.shape[1]} "
                "targets."
            )
        if x.shape[1] < least:
            raise MetaLensError(
                f"Tasks need {least} or more {name} examples, got {x.shape[1]}; give tasks more, or use "
                "another learner."
            )
    if tasks.support.x.shape[2:] != tasks.query.x.shape[2:]:
        raise MetaLensError(f"Support and query inputs must have one shape, got {_shapes(tasks)}.")
    if tasks.support.y.is_floating_point() != tasks.query.y.is_floating_point():
        raise MetaLensError(
            f"Targets must be real in both sets or classes in both, got {tasks.support.y.dtype} in the "
            f"support and {tasks.query.y.dtype} in the query set; convert one of them."
        )


def warn_of_nonfinite(tasks: Task, numbers: Sequence[int]) -> None:
    """Warn of the first task of a batch that has a number that is not finite; their scores are not either.

    >>> from metalens import Sinusoid
    >>> tasks = Sinusoid().batch([7, 8])
    >>> tasks.query.y[1, 0] = torch.nan
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_of_nonfinite(tasks, [7, 8])
    >>> print(caught[0].message)
    query.y of task 8 is not finite, and so its scores are not; fix the data.
    """
    for name, tensor in zip(TENSORS, tasks.tensors, strict=True):
        lost = ~tensor.isfinite().flatten(1).all(1)
        if lost.any():
            task = numbers[int(lost.int().argmax())]
            words = f"{name} of task {task} is not finite, and so its scores are not; fix the data."
            warnings.warn(words, stacklevel=3)
            return


@contextmanager
def explained(learner: nn.Module, **tensors: Tensor) -> Iterator[None]:
    """Reraise PyTorch's errors about the tensors that a learner was given as a `MetaLensError`.

    >>> with explained(nn.Linear(2, 1), x=torch.zeros(5, 3)):
    ...     nn.Linear(2, 1)(torch.zeros(5, 3))
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Linear fails on x (5, 3) float32: mat1 and mat2 shapes cannot be multiplied
    (5x3 and 2x1); make the tasks, the network and the loss fit together.
    """
    try:
        yield
    except (MetaLensError, torch.OutOfMemoryError, NotImplementedError):
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise MetaLensError(
            f"{type(learner).__name__} fails on {_described(tensors)}: {first_sentence(error)}; make the "
            "tasks, the network and the loss fit together."
        ) from error


def named_tensors(tasks: Task) -> dict[str, Tensor]:
    """Return the inputs and targets of tasks by name."""
    return dict(zip(TENSORS[:4], tasks.tensors[:4], strict=True))


def _described(tensors: dict[str, Tensor]) -> str:
    types = (f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items())
    return ", ".join(types)


def _shapes(tasks: Task) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named_tensors(tasks).items())
