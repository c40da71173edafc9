"""A named check, how several are run, and small tasks to check methods on."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from unittest import SkipTest

import torch
from torch import Tensor

from metalens.tasks import Examples, Task

N_TASKS, N_PER_CLASS = 4, 2


@dataclass(frozen=True)
class Check:
    """One named property; calling it leaves the random stream of PyTorch as it was.

    Attributes:
        name: what should hold.
        run: raises `AssertionError` if it does not, and `unittest.SkipTest` if it does not apply.

    >>> check = Check("one_is_one", lambda: None)
    >>> check()
    >>> str(check)
    'one_is_one'
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            self.run()

    def __str__(self) -> str:
        return self.name


def run_checks(checks: Iterable[Check]) -> list[str]:
    """Run checks in order; return the names of those that apply."""
    held = []
    for check in checks:
        with suppress(SkipTest):
            check()
            held.append(check.name)
    return held


def random_tasks(
    input_shape: Sequence[int] = (5,), n_outputs: int = 3, *, classification: bool = True, seed: int = 1
) -> Task:
    """Return a batch of 4 tasks with normal inputs, in double precision, each with 2 descriptors.

    Each task has `2 n_outputs` support and as many query examples.

    Args:
        input_shape: shape of one input.
        n_outputs: number of classes, or of real targets.
        classification: whether targets are class indices, or real and normal.
        seed: of the random numbers.

    >>> tasks = random_tasks((1, 6, 6), 5)
    >>> tasks.support.x.shape, tasks.query.y[0].tolist()
    (torch.Size([4, 10, 1, 6, 6]), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(N_TASKS, *shape, generator=generator, dtype=torch.float64)

    def examples() -> Examples:
        x = normal(n_outputs * N_PER_CLASS, *input_shape)
        classes = torch.arange(n_outputs).repeat_interleave(N_PER_CLASS).expand(N_TASKS, -1).contiguous()
        return Examples(x, classes if classification else normal(n_outputs * N_PER_CLASS, n_outputs))

    return Task(examples(), examples(), normal(2))
