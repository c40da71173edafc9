"""Scores of single tasks."""

import numpy as np
import torch
from sklearn.metrics import r2_score

from metalens.metrics import pearson_r2, r2, task_metrics


def test_skill_is_the_coefficient_of_determination_and_bounded():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.normal(size=(3, 9, 1)))
    none, near = y[:, :0], y + torch.from_numpy(rng.normal(scale=0.5, size=y.shape))
    expected = [r2_score(true, told) for true, told in zip(y[..., 0], near[..., 0], strict=True)]
    np.testing.assert_allclose(r2(near, y, none), expected)
    np.testing.assert_allclose(r2(1e4 * near + 7, 1e4 * y + 7, none), expected)  # of any unit
    assert r2(y + 100, y, none).tolist() == [-1.0] * 3
    assert 0 < r2(y[:, :1], y[:, :1] + 0.1, y[:, 1:])[0] < 1  # one query has no variance of its own
    equal = torch.full_like(y, 0.1, dtype=torch.float32)
    assert r2(equal + 1, equal, equal).tolist() == [0.0] * 3
    near[1, 2] = torch.inf
    assert r2(near, y, none).isnan().tolist() == [False, True, False]


def test_squared_correlation_is_that_of_numpy():
    rng = np.random.default_rng(0)
    predictions, y = rng.standard_normal((2, 4, 9, 2))
    expected = [
        np.mean([np.corrcoef(p[:, c], t[:, c])[0, 1] ** 2 for c in range(2)])
        for p, t in zip(predictions, y, strict=True)
    ]
    ours = pearson_r2(torch.from_numpy(predictions), torch.from_numpy(y))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_constants_explain_nothing_and_divergence_is_no_score():
    y = torch.tensor([[[1.0], [2.0], [4.0]]])
    assert pearson_r2(torch.full_like(y, 3.0), y).tolist() == [0.0]
    assert pearson_r2(y, torch.full_like(y, 3.0)).tolist() == [0.0]
    constant = torch.full((1, 7, 1), 0.1, dtype=torch.float64)  # whose mean is not exactly 0.1
    assert pearson_r2(constant, torch.randn(1, 7, 1).double()).item() == 0
    assert pearson_r2(y / 0, y).isnan().all()
    assert list(task_metrics(y, y, ["pearson_r2"])) == ["mse", "pearson_r2"]
