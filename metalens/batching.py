"""Map a function of one task over a batch of tasks."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError

Batching = Literal["auto", "vmap", "loop"]
Plan = Literal["vmap", "loop"]
Chunk = int | Literal["auto"] | None


def task_map(function: Callable[..., Any], *trees: Any, plan: Plan) -> Any:
    """Apply a function to every task of a batch and stack its results.

    `task_map(f, a, b)[t] = f(a[t], b[t])`, whatever the plan; only speed and memory differ.

    Args:
        function: maps the trees of one task to a tree of tensors.
        *trees: trees of tensors with a leading axis of length T.
        plan: `"vmap"` runs all tasks in one vectorized call, `"loop"` one by one: any operation, and faster
            on CPUs for convolutions whose kernels differ between tasks.

    Returns:
        The function's results with a leading axis of length T.

    >>> x = torch.arange(3.0)
    >>> [task_map(torch.square, x, plan=plan).tolist() for plan in ("vmap", "loop")]
    [[0.0, 1.0, 4.0], [0.0, 1.0, 4.0]]
    """
    if plan == "vmap":
        return torch.vmap(function, randomness="different")(*trees)
    leaves, spec = pytree.tree_flatten(trees)
    # `unbind` has one gradient; each `leaf[i]` would have one as large as the whole leaf.
    tasks = zip(*(leaf.unbind() for leaf in leaves), strict=True)
    results = [function(*pytree.tree_unflatten(task, spec)) for task in tasks]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def is_vectorized() -> bool:
    """Return whether `torch.vmap` is running.

    >>> task_map(lambda x: x.new_tensor(is_vectorized()), torch.zeros(1), plan="vmap")
    tensor([1.])
    >>> is_vectorized()
    False
    """
    return any(level.key() == TransformType.Vmap for level in get_interpreter_stack() or ())


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` is running: `vmap`, or `grad` of an inner loop.

    >>> torch.func.grad(lambda x: x * is_transformed())(torch.zeros(()))
    tensor(1.)
    """
    return bool(get_interpreter_stack())


def check_batching(batching: Batching) -> None:
    """Raise `MetaLensError` if a batching is unknown."""
    if batching not in get_args(Batching):
        raise MetaLensError(f"batching must be 'auto', 'vmap' or 'loop', got {batching!r}.")


def check_chunk(chunk: Chunk) -> None:
    """Raise `MetaLensError` if a chunk is no number of tasks, `"auto"` or `None`."""
    if chunk not in (None, "auto") and not (isinstance(chunk, int) and chunk >= 1):
        raise MetaLensError(f"chunk must be at least 1 task, 'auto', or None for all at once, got {chunk!r}.")
