"""Prediction intervals with a given coverage, calibrated on held-out tasks."""

from collections.abc import Sequence

import numpy as np

from metalens.errors import MetaLensError


def conformal_radius(residuals: Sequence[np.ndarray], coverage: float) -> float:
    """Return the half width of prediction intervals with the given coverage for new tasks.

    The least r with `sum_k (share of |residuals_k| <= r) / (K + 1) >= coverage`, over K calibration tasks,
    which have equal weight. If a new task, its support and its queries are drawn like those of the K tasks,
    then `P(|y - f(x)| <= r) >= coverage`, on average over new tasks; within one task coverage can differ.
    This is for a model that has not seen these tasks; with residuals of folds, and a model that learned from
    all, it is about so.

    Args:
        residuals: targets minus predictions of each calibration task, at least one.
        coverage: the probability, above 0 and below 1.

    Raises:
        MetaLensError: coverage is out of range or above `K / (K + 1)`.

    >>> conformal_radius([np.array([0.1, 0.2]), np.array([-0.3]), np.array([0.5])], coverage=0.5)
    0.3

    Source: Y. Lee, R. Barber, R. Willett, "Distribution-free inference with hierarchical data", 2023, arXiv
    2306.06342.
    """
    if not 0 < coverage < 1:
        raise MetaLensError(f"coverage must be above 0 and below 1, got {coverage}.")
    n = len(residuals)
    needed = coverage * (n + 1) - 1e-9  # so that rounding does not require another task
    if n < needed:
        raise MetaLensError(
            f"Intervals with coverage={coverage} need {int(np.ceil(coverage / (1 - coverage) - 1e-9))} "
            f"calibration tasks, and there were {n}; ask for less, or fit with more held-out tasks."
        )
    sizes = np.concatenate([np.abs(of_task) for of_task in residuals])
    weights = np.concatenate([np.full(len(of_task), 1 / len(of_task)) for of_task in residuals])
    order = np.argsort(sizes)
    reached = np.searchsorted(np.cumsum(weights[order]), needed)
    return float(sizes[order][min(reached, len(sizes) - 1)])
