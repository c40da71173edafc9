"""Times of several functions, interleaved, so that a disturbance of the machine meets all of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping


def interleaved(
    runs: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    seconds: float,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of one step of everybody in every round.

    A round takes everybody once, in random order, for a batch of steps.

    Args:
        runs: by name; called with a number of steps.
        rounds: how many.
        seconds: about how long a batch takes, at least one step.
        seed: of the order.
        clock: tells the time.
    """
    steps = {}
    for name, run in runs.items():
        run(1)
        steps[name] = max(1, round(seconds / elapsed(run, 1, clock)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            times[name].append(elapsed(runs[name], steps[name], clock) / steps[name])
    return times


def elapsed(run: Callable[[int], object], n: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that n steps take."""
    started = clock()
    run(n)
    return clock() - started
