"""Small tasks to check methods on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metalens.tasks import Examples, Task

N_TASKS, K_SHOT, K_QUERY = 4, 2, 2


def random_tasks(
    input_shape: Sequence[int] = (5,), n_outputs: int = 3, *, classification: bool = True, seed: int = 1
) -> Task:
    """Return a batch of 4 tasks with normal inputs, in double precision, each with 2 descriptors.

    Each task has `2 n_outputs` support and as many query examples.

    Args:
        input_shape: shape of one input.
        n_outputs: number of classes, or of real targets.
        classification: whether targets are class indices, or real and normal.
        seed: other numbers for every seed.

    >>> tasks = random_tasks((1, 6, 6), 5)
    >>> tasks.support.x.shape, tasks.query.y[0].tolist()
    (torch.Size([4, 10, 1, 6, 6]), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(N_TASKS, *shape, generator=generator, dtype=torch.float64)

    def examples(per_class: int) -> Examples:
        n = n_outputs * per_class
        x = normal(n, *input_shape)
        classes = torch.arange(n_outputs).repeat_interleave(per_class).expand(N_TASKS, -1).contiguous()
        return Examples(x, classes if classification else normal(n, n_outputs))

    return Task(examples(K_SHOT), examples(K_QUERY), normal(2))
