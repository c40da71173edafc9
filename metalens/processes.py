"""Data-parallel processes and their collectives."""

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
    """`world_size` processes, of which this is number `rank`; each has an equal share of the tasks of a step.

    Process r of N has the r-th of N contiguous parts of the tasks. All processes must call collectives in the
    same order; a single process gets its argument back.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes, those of PyTorch's default process group.

    >>> Processes(rank=1, world_size=2).shard(range(6))
    range(3, 6)
    """

    rank: int = 0
    world_size: int = 1

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's contiguous part of the items.

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
        """Return tensors `(T, ...)` of T own tasks with those of all tasks, `(T world_size, ...)`.

        Differentiable: the gradient is that of the sum of the losses of all processes.
        """
        if self.world_size == 1:
            return tree
        leaves, structure = pytree.tree_flatten(tree)
        # One message, as its latency counts as much as the tensors of a small network.
        rows = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        gathered = _Gather.apply(torch.cat(rows, dim=1), self.world_size)
        pairs = zip(gathered.split([row.shape[1] for row in rows], dim=1), leaves, strict=True)
        whole = [column.reshape(-1, *leaf.shape[1:]).to(leaf.dtype) for column, leaf in pairs]
        return pytree.tree_unflatten(whole, structure)

    def all_reduce_mean(self, tree: Any) -> Any:
        """Return a tree of scalars with their means over all processes, detached."""
        if self.world_size == 1:
            return tree
        leaves, structure = pytree.tree_flatten(tree)
        total = torch.stack([leaf.detach() for leaf in leaves])
        dist.all_reduce(total)
        return pytree.tree_unflatten(list(total / self.world_size), structure)

    def all_reduce_min(self, value: float) -> float:
        """Return the smallest of the values of all processes."""
        return value if self.world_size == 1 else min(self.gather_objects([value]))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return the first process's tensor; all have one of the same shape."""
        if self.world_size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def scatter(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return every `world_size`-th item; parts may have unequal lengths. See `gather_objects`.

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
        places = [divmod(number, self.world_size) for number in range(sum(map(len, parts)))]
        return [parts[rank][index] for index, rank in places]


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
