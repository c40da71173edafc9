"""Meta-augmentation: change the targets of whole tasks, so that only the support set determines them."""

import torch

from metalens.errors import check_nonnegative, check_positive
from metalens.regularizers.classes import OfClasses, n_classes, random_orders
from metalens.tasks import Examples, Task, n_tasks


class MetaAug(OfClasses):
    """Change the targets of each task in one random way, the same for its support and query set.

        real targets:  y + e,    e ~ U(-shift, shift) once per task and target dimension,
                                 modulo the period, if given
        classes:       pi(y),    pi a random permutation of the class slots, once per task

    A learner that memorizes the training tasks can then not ignore the support set. Permuting slots has an
    effect on tasks with `slots="fixed"` only.

    Args:
        shift: largest shift of real targets, in units of y; classes are permuted whatever its value.
        period: period of real targets, such as 10 for `Pose`: they stay in [0, period), and a shift of half
            a period leaves nothing to memorize. `None` if they are not periodic.

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
        check_nonnegative(self, shift=shift)
        check_positive(self, period=period)
        self.shift, self.period = shift, period

    def transform_tasks(self, tasks: Task) -> Task:
        n, y = n_tasks(tasks), tasks.query.y
        if y.is_floating_point():
            noise = torch.rand(n, 1, *y.shape[2:], dtype=y.dtype, device=y.device)
            shift = self.shift * (2 * noise - 1)
            tasks = tasks.map(lambda examples: Examples(examples.x, examples.y + shift))
            if (period := self.period) is not None:
                tasks = tasks.map(lambda examples: Examples(examples.x, examples.y.remainder(period)))
            return tasks
        slots = random_orders(n, n_classes(tasks), self.width(tasks))
        return tasks.map(lambda examples: Examples(examples.x, slots.gather(1, examples.y)))
