"""The time that a fit may take: how it is shared, and what is left out to keep to it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metalens.errors import MetaLensError

if TYPE_CHECKING:
    from metalens.estimators.models import Candidate
    from metalens.training.hooks import OnStep

# Shares of the time by whose end a part of the fit is over or, of what cannot be stopped, begun.
FIT, TRAIN, TRAIN_BASELINES, FIT_SLOW, COMPARE = 0.4, 0.55, 0.7, 0.35, 0.9
MIN_TRAIN = 0.15  # share that the meta-learner has at least

clock = time.monotonic


class TimeLimit:
    """The time that a fit may take, from now on.

    Its parts take shares of the time that is left when the data are read, in this order: baselines that take
    no outer step are fitted, and none is begun after 40 %; the meta-learner is trained up to 55 %, but for at
    least 15 %, and baselines that are networks up to 70 %, each with the best weights so far; baselines whose
    fit is slow follow if it is not yet 35 %; models are compared up to 90 %, without the slowest if all would
    take longer; and the rest is for choices for other numbers of support rows. Without a limit the clock is
    not asked.

    Args:
        seconds: the limit; `None` for none.

    Attributes:
        cut: what was left out or stopped early to keep to the limit, and how.

    Raises:
        MetaLensError: the limit is not above 0.

    >>> TimeLimit(0)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: time_limit must be above 0 seconds, got 0.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise MetaLensError(f"time_limit must be above 0 seconds, got {seconds}.")
        self.seconds = None if seconds is None or math.isinf(seconds) else seconds
        self._begun = 0.0 if self.seconds is None else clock()
        self.cut: dict[str, str] = {}

    def begin(self) -> None:
        """Count shares from now on, as the data are read."""
        if self.seconds is not None:
            now = clock()
            self.seconds, self._begun = max(self._begun + self.seconds - now, 0.0), now

    def left(self, share: float) -> float:
        """Return the seconds that are left of a share of the time."""
        if self.seconds is None:
            return math.inf
        return self._begun + share * self.seconds - clock()

    def extended(self, share: float, least: float) -> float:
        """Return a share of which at least another share is left."""
        if not self.seconds:
            return share
        return max(share, (clock() - self._begun) / self.seconds + least)

    def stopwatch(
        self, name: str, progress: OnStep | None, steps: int, share: float, last: int | None = None
    ) -> Stopwatch:
        """Return what ends the training of a model by the end of a share; see `Stopwatch`."""
        return Stopwatch(self, name, progress, steps, share, last=last)

    def pace(self, names: Sequence[str], n_tasks: int, share: float) -> Pace:
        """Return what leaves out slow candidates; see `Pace`."""
        return Pace(self, names, n_tasks, share)


def left_out_in_words(left_out: Mapping[str, str]) -> str:
    """Return a sentence on what was left out or cut short to keep to a time limit.

    >>> left_out_in_words({"R2D2": "stopped after 450 of 2000 steps", "MultiTaskGP": "not trained"})
    'To keep to the time limit, parts were left out or cut short: R2D2 (stopped after 450 of 2000 steps),
    MultiTaskGP (not trained).'
    """
    what = ", ".join(f"{name} ({how})" for name, how in left_out.items())
    return f"To keep to the time limit, parts were left out or cut short: {what}."


@dataclass(frozen=True)
class Stopwatch:
    """The progress of a training, which ends when its time is over.

    Attributes:
        limit: of the fit.
        name: of the model.
        progress: is told, too.
        steps: of the whole training.
        share: of the limit, by whose end the training is over.
        spare: seconds of the share for trainings after this one.
        last: the step after which it ends in any case; `None` for that of the whole training.
    """

    limit: TimeLimit
    name: str
    progress: OnStep | None
    steps: int
    share: float
    spare: float = 0.0
    last: int | None = None

    def part(self, n: int) -> Stopwatch:
        """Return the stopwatch of the next of n trainings that have equal parts of the time that is left."""
        if n == 1 or self.limit.seconds is None:
            return self
        left = self.limit.left(self.share) - self.spare
        return replace(self, spare=self.spare + left * (1 - 1 / n))

    def __call__(self, step: int, loss: float) -> bool:
        """Tell the progress; return whether to stop."""
        if self.progress is not None:
            self.progress(step, loss)
        is_over = step < self.steps and self.limit.left(self.share) <= self.spare
        if is_over:
            self.limit.cut[self.name] = f"stopped after {step} of {self.steps} steps"
        return is_over or step == self.last


class Pace:
    """How long candidates take for a task, and which of them still fit into the time that is left.

    After each task the slowest candidates are left out until the rest can adapt to all further tasks in time.
    The meta-learner and the quickest of the others always stay. The first task is not counted, as libraries
    are imported there.

    Args:
        limit: of the fit.
        names: of the candidates to compare, the meta-learner first.
        n_tasks: number of tasks to adapt to.
        share: of the limit, by whose end all must be done.

    Attributes:
        kept: names of the candidates that are not left out.
    """

    def __init__(self, limit: TimeLimit, names: Sequence[str], n_tasks: int, share: float) -> None:
        self._limit, self._share, self._n_left = limit, share, n_tasks
        self._seconds = dict.fromkeys(names, 0.0)
        self._n_done = 0
        self.kept = list(self._seconds)

    def candidates(self, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
        """Yield those for the next task that are not left out, and note how long each takes."""
        for candidate in candidates:
            if candidate.name in self.kept:
                before = self._limit.left(self._share)
                yield candidate
                if self._limit.seconds is not None:
                    self._seconds[candidate.name] += before - self._limit.left(self._share)
        if self._limit.seconds is not None:
            self._leave_out()

    def _leave_out(self) -> None:
        self._n_left, self._n_done = self._n_left - 1, self._n_done + 1
        quickest = sorted(self.kept[1:], key=self._seconds.__getitem__)
        if self._n_done == 1:
            self._seconds = dict.fromkeys(self._seconds, 0.0)
        while len(quickest) > 1 and not self.fits(self.kept, self._n_left, self._share):
            slowest = quickest.pop()
            self.kept.remove(slowest)
            self._limit.cut[slowest] = "not compared"

    def fits(self, names: Sequence[str], n_tasks: int, share: float = 1.0) -> bool:
        """Return whether candidates can adapt to a number of tasks by the end of a share of the limit."""
        seconds = sum(self._seconds[name] for name in names) / max(self._n_done - 1, 1)
        return seconds * n_tasks <= self._limit.left(share)
