"""Progress bars of trainings in the terminal and in notebooks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from metalens.training.hooks import OnStep

REFRESH_RATE = 4  # times a second; more would slow down the training


@contextmanager
def step_bar(steps: int, on_step: OnStep | None) -> Iterator[OnStep]:
    """Yield a function that shows each step of a training in a bar, and calls another function."""
    with progress_bars() as progress:
        bar = StepBar(progress, steps)

        def shown(step: int, loss: float) -> bool | None:
            bar(step, loss)
            return None if on_step is None else on_step(step, loss)

        yield shown


def progress_bars(console: Console | None = None) -> Progress:
    """Return progress bars that disappear at the end; their console prints text as it is."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(highlight=False, markup=False),
        transient=True,
        refresh_per_second=REFRESH_RATE,
    )


class StepBar:
    """The bar of a training: call it after each step with the step's number and loss."""

    def __init__(self, progress: Progress, steps: int = 1) -> None:
        self.progress, self.next_update = progress, 0.0
        self.bar = progress.add_task("training", total=steps, status="")

    def start(self, description: str, steps: int) -> Self:
        """Reset the bar for another training."""
        self.progress.reset(self.bar, total=steps, description=description, status="")
        self.next_update = 0.0
        return self

    def __call__(self, step: int, loss: float) -> None:
        """Show a step, unless the bar was refreshed just before."""
        now = time.monotonic()
        (task,) = (task for task in self.progress.tasks if task.id == self.bar)
        if now < self.next_update and step < (task.total or 0):
            return
        self.next_update = now + 1 / REFRESH_RATE
        status = f"loss {loss:.4f}" + (f"  {task.speed:.0f} steps/s" if task.speed else "")
        self.progress.update(self.bar, completed=step, status=status)
