"""What errors are divided by before intervals are calibrated: the deviations that a model predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metalens.estimators.conformal import conformal_radius

COVERAGE = 0.9
_LEAST_TASKS = 12  # so that those of four folds of five suffice for intervals of 90 %
_LEAST_GAIN = 0.02  # of the mean width, below which errors stay as they are
ByTask = Mapping[str, np.ndarray]


class Scale(NamedTuple):
    """The model whose predicted deviations divide the errors of what was chosen.

    Attributes:
        model: its name; `None` if errors stay as they are.
        typical: the mean of its deviations over the held-out tasks; 1 without a model.
    """

    model: str | None = None
    typical: float = 1.0


def choose_scale(errors: ByTask, deviations: Mapping[str, ByTask], fold: Mapping[str, int]) -> Scale:
    """Return the model whose deviations make the narrowest intervals, if these are narrower by 2 % or more.

    Widths are means over the held-out tasks, in turn without a say in the factor, for a coverage of 90 %. So
    intervals are wide where few rows are known, far from these, and in tasks that are hard to predict, if
    that is what errors are like. With fewer than 12 tasks errors stay as they are.

    Args:
        errors: absolute errors of the queries of held-out tasks by task, each `(q,)`.
        deviations: predicted standard deviations of the same queries by model and task.
        fold: the fold of each task.

    >>> rng = np.random.default_rng(0)
    >>> spread = {f"task {n}": np.repeat([1.0, 5.0], 20) for n in range(20)}
    >>> errors = {task: np.abs(size * rng.standard_normal(40)) for task, size in spread.items()}
    >>> equal = {task: np.ones(40) for task in errors}
    >>> fold = {task: place % 5 for place, task in enumerate(errors)}
    >>> choose_scale(errors, {"Ridge": equal, "MultiTaskGP": spread}, fold)
    Scale(model='MultiTaskGP', typical=3.0)

    Source: H. Papadopoulos, V. Vovk, A. Gammerman, "Regression Conformal Prediction with Nearest Neighbours",
    JAIR 40, 2011, for the division by a predicted size; the choice among models is ours.
    """
    if len(errors) < _LEAST_TASKS:
        return Scale()
    usable = {
        name: of_model
        for name, of_model in deviations.items()
        if all((np.isfinite(sizes) & (sizes > 0)).all() for sizes in of_model.values())
    }
    plain = _mean_width(errors, {task: np.ones_like(of_task) for task, of_task in errors.items()}, fold)
    widths = {name: _mean_width(errors, of_model, fold) for name, of_model in usable.items()}
    best = min(widths, key=widths.__getitem__, default=None)
    if best is None or not widths[best] <= (1 - _LEAST_GAIN) * plain:
        return Scale()
    return Scale(best, float(np.mean([sizes.mean() for sizes in usable[best].values()])))


def divided(errors: ByTask, sizes: ByTask) -> list[np.ndarray]:
    """Return errors divided by sizes, by task."""
    return [of_task / sizes[task] for task, of_task in errors.items()]


def _mean_width(errors: ByTask, sizes: ByTask, fold: Mapping[str, int]) -> float:
    """Return the mean over tasks of half widths by the radius of the tasks in other folds."""
    ratios = dict(zip(errors, divided(errors, sizes), strict=True))
    radii: dict[int, float] = {}
    for number in set(fold.values()):
        others: Sequence[np.ndarray] = [of for task, of in ratios.items() if fold[task] != number]
        radii[number] = conformal_radius(others, COVERAGE)
    return float(np.mean([radii[fold[task]] * of_task.mean() for task, of_task in sizes.items()]))
