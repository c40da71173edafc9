"""Map a function of one task over a batch of tasks. The only file that calls `torch.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError

Batching = Literal["auto", "vmap", "loop"] | int
Plan = Literal["vmap", "loop"] | int


def task_map(function: Callable[..., Any], *trees: Any, plan: Plan) -> Any:
    """Apply a function to every task of a batch and stack its results.

    `task_map(f, a, b)[t] = f(a[t], b[t])`, whatever the plan; only speed and memory differ.

    Args:
        function: maps the trees of one task to a tree of tensors.
        *trees: trees of tensors with a leading axis of length T.
        plan: `"vmap"` runs all tasks in one vectorized call, an integer runs that many at a time (less
            memory), `"loop"` runs them one by one (any operation, and faster for convolutions whose
            kernels differ between tasks on a processor).

    Returns:
        The function's results with a leading axis of length T.

    >>> x = torch.arange(3.0)
    >>> [task_map(torch.square, x, plan=plan).tolist() for plan in ("vmap", "loop", 2)]
    [[0.0, 1.0, 4.0], [0.0, 1.0, 4.0], [0.0, 1.0, 4.0]]
    """
    if plan != "loop":
        chunk = None if plan == "vmap" else plan
        return torch.vmap(function, randomness="different", chunk_size=chunk)(*trees)
    n = len(pytree.tree_leaves(trees)[0])
    results = [function(*pytree.tree_map(lambda leaf, i=i: leaf[i], trees)) for i in range(n)]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def check_batching(batching: Batching) -> None:
    """Refuse anything that is not a way to batch.

    >>> check_batching(0)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: batching must be 'auto', 'vmap', 'loop' or a chunk size (1 or more), got 0.
    """
    if batching in ("auto", "vmap", "loop"):
        return
    if isinstance(batching, int) and not isinstance(batching, bool) and batching >= 1:
        return
    raise MetaLensError(
        f"batching must be 'auto', 'vmap', 'loop' or a chunk size (1 or more), got {batching!r}."
    )
