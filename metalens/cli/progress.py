"""Text and live progress in the terminal."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

REFRESH_RATE = 4  # times a second; more would slow down the training


def say(*texts: str, wrap: bool = False) -> None:
    """Print texts as they are, each on a line; `wrap` breaks long ones at the width of the terminal."""
    console = Console(highlight=False, markup=False)
    for text in texts:
        console.print(text, soft_wrap=not wrap)


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
