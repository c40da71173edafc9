"""Data-parallel processes: rank, number and collectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """`world_size` processes of which this is number `rank`; each has an equal share of the tasks of a step.

    Tasks are numbered through all processes: process r of N has the r-th of N contiguous parts. What
    communicates must be called by all processes in the same order. A single process communicates nothing and
    gets back the very objects that it gave.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes, which are those of PyTorch's default process group.

    >>> Processes(rank=1, world_size=2).shard(range(6))
    range(3, 6)
    """

    rank: int = 0
    world_size: int = 1

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part of what all processes work on together.

        Raises:
            MetaLensError: the items cannot be divided equally.
        """
        if len(items) % self.world_size:
            raise MetaLensError(
                f"{self.world_size} processes cannot share {len(items)} tasks equally; give a "
                "meta_batch_size that is a multiple of the number of processes."
            )
        size = len(items) // self.world_size
        return items[self.rank * size : (self.rank + 1) * size]

    def all_gather(self, tree: Any) -> Any:
        """Return a tree of tensors `(T, ...)`, T own tasks, with those of all tasks, `(T world_size, ...)`.

        Differentiable: what all processes do with the tensors of a task reaches its own process. The sum of
        the losses of all processes is differentiated, each process by its own parameters.
        """
        if self.world_size == 1:
            return tree
        leaves, structure = pytree.tree_flatten(tree)
        # One message: its latency counts as much as the tensors of a small network.
        rows = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        columns = _Gather.apply(torch.cat(rows, dim=1), self.world_size).split(
            [row.shape[1] for row in rows], dim=1
        )
        whole = [
            column.reshape(-1, *leaf.shape[1:]).to(leaf.dtype)
            for column, leaf in zip(columns, leaves, strict=True)
        ]
        return pytree.tree_unflatten(whole, structure)

    def all_reduce_mean(self, tree: Any) -> Any:
        """Return a tree of scalars with their means over all processes, as constants."""
        if self.world_size == 1:
            return tree
        leaves, structure = pytree.tree_flatten(tree)
        total = torch.stack([leaf.detach() for leaf in leaves])
        dist.all_reduce(total)
        return pytree.tree_unflatten(list(total / self.world_size), structure)

    def all_reduce_min(self, value: float) -> float:
        """Return the smallest of the values of all processes, so that all decide alike."""
        if self.world_size == 1:
            return value
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, value)
        return min(parts)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return the first process's tensor, where all have drawn one of the same shape."""
        if self.world_size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def scatter(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return every `world_size`-th item, for work that need not be divided equally; see `gather_objects`.

        >>> Processes(rank=1, world_size=2).scatter(range(5))
        range(1, 5, 2)
        """
        return items[self.rank :: self.world_size]

    def gather_objects(self, results: list[Item]) -> list[Item]:
        """Return the results of all items of `scatter`, in the order of the items."""
        if self.world_size == 1:
            return results
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, results)
        return [
            parts[number % self.world_size][number // self.world_size]
            for number in range(sum(map(len, parts)))
        ]


ALONE = Processes()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        parts = [torch.empty_like(rows) for _ in range(world_size)]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        sent = slopes[0].contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        return received.unflatten(0, (ctx.world_size, -1)).sum(0), None
