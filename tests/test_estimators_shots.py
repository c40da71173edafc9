"""From no support row to many: what adapts, and how wide intervals are."""

import warnings

import numpy as np
import pandas as pd
import pytest

from metalens import MetaLensError, MetaRegressor
from metalens.estimators import load_model

SHOTS = [0, 1, 3, 5, 8, 10, 20]
ROLES = {"task": "pupil", "target": "score"}


def pupils(n=120, rows=24, seed=0):
    """A common line, a level for each pupil (deviation 10), and noise (deviation 2)."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 10, n).repeat(rows)
    hours = rng.normal(size=n * rows)
    score = 100 + 5 * hours + level + rng.normal(0, 2, n * rows)
    return pd.DataFrame({"pupil": np.arange(n).repeat(rows), "hours": hours, "score": score})


def fitted(frame, learner="R2D2", **settings):
    settings = {"hidden": (16,), "steps": 150, "outer_lr": 0.01, "k_shot": 8, "n_query": 4} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back
        return MetaRegressor(learner, baselines=("JointModel", "Ridge"), **settings).fit(frame, **ROLES)


@pytest.fixture(scope="module")
def model():
    return fitted(pupils())


@pytest.fixture(scope="module")
def new():
    """New pupils, 30 rows each: the first 20 are support, at most."""
    return [of_one for _, of_one in pupils(150, 30, seed=1).groupby("pupil")]


def test_a_model_is_chosen_for_several_numbers_of_support_rows(model):
    assert list(model.weights_) == SHOTS
    assert all(sum(weights.values()) == pytest.approx(1) for weights in model.weights_.values())
    assert model.weights_[8].get("JointModel", 0) < 0.2 < model.weights_[0]["JointModel"]


def test_a_number_between_has_the_model_of_the_next_lower_one(model, new):
    choice = model._choices
    changed = choice[5]._replace(residuals=[100 + of_task for of_task in choice[5].residuals])
    try:
        model._choices = choice | {5: changed}
        low, high = (model.adapt(new[0][:n]).predict_interval(new[0][25:]) for n in (4, 7))
    finally:
        model._choices = choice
    assert np.ptp(low, axis=1).max() < 100 < np.ptp(high, axis=1).min()


def test_without_rows_the_population_is_predicted(model, new):
    nothing = model.adapt()
    error = np.concatenate([nothing.predict(of_one[20:]) - of_one.score[20:] for of_one in new])
    assert 9 < error.std() < 12  # level and noise: 10.2
    few, many = (
        np.concatenate(
            [model.adapt(of_one[:n]).predict(of_one[20:]) - of_one.score[20:] for of_one in new[:50]]
        )
        for n in (3, 20)
    )
    assert many.std() < few.std() < error.std()


@pytest.mark.parametrize("n", SHOTS)
def test_intervals_hold_their_share_with_any_number_of_rows(model, new, n):
    inside, widths = [], []
    for of_one in new[:60]:
        low, high = model.adapt(of_one[:n] if n else None).predict_interval(of_one[20:], 0.8).T
        inside.append(np.mean((low <= of_one.score[20:]) & (of_one.score[20:] <= high)))
        widths.append(np.mean(high - low))
    # 36 held-out tasks calibrate: a standard error of the share of about 0.06
    assert 0.64 < np.mean(inside) < 0.95
    assert (np.mean(widths) > 20) == (n == 0)


def test_the_models_of_all_numbers_are_saved(model, new, tmp_path):
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.weights_ == model.weights_
    for n in (0, 2, 20):
        one, other = (of.adapt(new[0][:n] if n else None) for of in (model, again))
        assert one.model == other.model
        np.testing.assert_array_equal(one.predict_interval(new[0][20:]), other.predict_interval(new[0][20:]))


def test_a_learner_that_needs_rows_says_so():
    model = fitted(pupils(20, 12), learner="ANIL", steps=2, fallback=False)
    with pytest.raises(MetaLensError, match="ANIL needs 1 support rows or more, got 0; add some"):
        model.adapt()
    assert model.adapt(pupils(1)[:2]).predict(pupils(1)).shape == (24,)
