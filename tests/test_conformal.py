"""Conformal intervals over tasks: the formula, what it needs, and what it covers."""

import numpy as np
import pytest

from metalens import MetaLensError
from metalens.estimators.conformal import conformal_radius


def test_the_radius_is_the_least_that_the_formula_allows():
    rng = np.random.default_rng(0)
    residuals = [rng.normal(size=n) for n in (1, 4, 9, 2, 7)]

    def share(r):
        return sum(np.mean(np.abs(of_task) <= r) for of_task in residuals) / 6

    for coverage in (0.1, 0.5, 0.8):
        radius = conformal_radius(residuals, coverage)
        assert share(radius) >= coverage - 1e-9
        assert share(radius * (1 - 1e-9)) < coverage


@pytest.mark.parametrize(("coverage", "needed"), [(0.9, 9), (0.5, 1), (0.95, 19)])
def test_coverage_needs_enough_tasks(coverage, needed):
    residuals = [np.array([1.0])] * needed
    assert conformal_radius(residuals, coverage) == 1
    with pytest.raises(MetaLensError, match=f"need {needed} calibration tasks, and there were {needed - 1}"):
        conformal_radius(residuals[1:], coverage)
    with pytest.raises(MetaLensError, match="coverage must be"):
        conformal_radius(residuals, 1.0)


def test_intervals_cover_what_they_promise_over_tasks_of_different_noise_and_size():
    # 2,000 times: calibrate on 20 tasks, ask one query of a new one. If 0.8 are covered in truth, the share
    # is below the limit with a probability of 0.001 (3.1 standard errors of 0.009).
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        noise = rng.gamma(1, size=21)
        residuals = [rng.normal(size=rng.integers(1, 30)) * of_task for of_task in noise[:-1]]
        inside.append(abs(rng.normal() * noise[-1]) <= conformal_radius(residuals, 0.8))
    assert 0.8 - 3.1 * 0.009 < np.mean(inside) < 0.9
