"""A named check, and how several are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from unittest import SkipTest

import torch


@dataclass(frozen=True)
class Check:
    """One property under its name; calling it leaves the random stream of PyTorch as it was.

    Attributes:
        name: what should hold.
        run: raises `AssertionError` where it does not, and `unittest.SkipTest` where it does not apply.

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
    """Run checks in their order, and return the names of those that apply; all of them hold.

    Raises:
        AssertionError: a property does not hold.

    >>> run_checks([Check("one_is_one", lambda: None)])
    ['one_is_one']
    """
    held = []
    for check in checks:
        with suppress(SkipTest):
            check()
            held.append(check.name)
    return held
