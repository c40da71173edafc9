"""Meta-augmentation: change the targets of whole tasks, so that only the support set tells them."""

from __future__ import annotations

import math

import torch

from metalens.errors import MetaLensError
from metalens.regularizers.base import Regularizer
from metalens.tasks import Examples, Task, n_tasks


class MetaAug(Regularizer):
    """Change the targets of each task in one random way, the same for its support and query set.

        real targets:  y + e,    e ~ U(-shift, shift) once per task and target dimension,
                                 modulo the period where there is one
        classes:       pi(y),    pi a random permutation of the class slots, once per task

    A learner that remembers the training tasks can then no longer do without the support set. Permuting
    slots changes nothing where the tasks already come with random slots; it matters for tasks with
    `slots="fixed"`.

    Args:
        shift: largest shift of real targets, in units of y; 0 leaves them alone. Classes are permuted
            whatever its value.
        period: where real targets wrap around, such as 10 for `Pose`: they stay in [0, period), and half a
            period as shift leaves nothing to remember. `None` for targets that do not.

    Raises:
        MetaLensError: shift is negative or not finite, or period is not above 0 and finite.

    >>> import torch
    >>> from metalens import Sinusoid
    >>> tasks = Sinusoid().batch(range(4))
    >>> shifts = MetaAug(shift=2.0).transform_tasks(tasks).support.y - tasks.support.y
    >>> bool((shifts.std(1) < 1e-5).all()), bool(shifts.std() > 0.1)
    (True, True)

    Source: J. Rajendran, A. Irpan, E. Jang, "Meta-Learning Requires Meta-Augmentation", 2020,
    arXiv 2007.05549. Deviations: the defaults are this implementation's; the slots to permute are those that
    occur in the batch.
    """

    def __init__(self, *, shift: float = 1.0, period: float | None = None) -> None:
        super().__init__()
        if not 0 <= shift < math.inf:
            raise MetaLensError(f"MetaAug: shift must be 0 or more and finite, got {shift}.")
        if period is not None and not 0 < period < math.inf:
            raise MetaLensError(f"MetaAug: period must be above 0 and finite, got {period}.")
        self.shift = shift
        self.period = period

    def transform_tasks(self, tasks: Task) -> Task:
        n, y = n_tasks(tasks), tasks.query.y
        if y.is_floating_point():
            noise = torch.rand(n, 1, *y.shape[2:], dtype=y.dtype, device=y.device)
            shift = self.shift * (2 * noise - 1)
            return tasks.map(lambda examples: Examples(examples.x, self._wrapped(examples.y + shift)))
        n_classes = int(torch.cat([tasks.support.y, y], 1).max()) + 1
        slots = torch.rand(n, n_classes, device=y.device).argsort(1)
        return tasks.map(lambda examples: Examples(examples.x, slots.gather(1, examples.y)))

    def _wrapped(self, y: torch.Tensor) -> torch.Tensor:
        return y if self.period is None else y.remainder(self.period)
