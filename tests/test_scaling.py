"""Intervals that are wider where errors are larger: by the deviations that one of the models predicts."""

import warnings

import numpy as np
import pandas as pd
import pytest

from metalens import MetaRegressor
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.scaling import Scale, choose_scale, divided

ROLES = {"task": "plant", "target": "height"}
QUICK = {"hidden": (8,), "steps": 20, "k_shot": 2, "n_query": 6, "baselines": ("MixedModel",)}


def errors_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return {task: np.abs(rng.standard_normal(len(of_task)) * of_task) for task, of_task in sizes.items()}


def sizes_of(n_tasks=20, low=1.0, high=5.0):
    return {f"task {number}": np.repeat([low, high], 15) for number in range(n_tasks)}


def fold_of(tasks):
    return {task: place % 5 for place, task in enumerate(tasks)}


def test_deviations_that_tell_errors_are_chosen_and_others_are_not():
    sizes = sizes_of()
    errors, fold = errors_of(sizes), fold_of(sizes)
    wrong = {task: of_task[::-1] for task, of_task in sizes.items()}
    assert choose_scale(errors, {"wrong": wrong}, fold) == Scale()
    assert choose_scale(errors, {"wrong": wrong, "right": sizes}, fold) == Scale("right", 3.0)
    assert choose_scale(errors, {}, fold) == Scale()


def test_units_of_deviations_do_not_matter():
    sizes = sizes_of()
    errors, fold = errors_of(sizes), fold_of(sizes)
    large = {task: 7 * of_task for task, of_task in sizes.items()}
    radius = conformal_radius(divided(errors, sizes), 0.9)
    scale = choose_scale(errors, {"large": large}, fold)
    assert scale == Scale("large", 21.0)
    assert conformal_radius(divided(errors, large), 0.9) * 7 == pytest.approx(radius)


def test_few_tasks_and_deviations_that_are_no_numbers_are_left_out():
    few = sizes_of(11)
    assert choose_scale(errors_of(few), {"right": few}, fold_of(few)) == Scale()
    sizes = sizes_of()
    for bad in (np.nan, np.inf, 0.0):
        broken = sizes | {"task 3": np.full(30, bad)}
        assert choose_scale(errors_of(sizes), {"broken": broken}, fold_of(sizes)) == Scale()


def test_equal_deviations_change_nothing():
    sizes = sizes_of(low=2.0, high=2.0)
    assert choose_scale(errors_of(sizes), {"equal": sizes}, fold_of(sizes)) == Scale()


def test_divided_errors_hold_their_share_where_errors_are_small_and_where_they_are_large():
    """In simulated tasks, by point: equal widths hold too much of one half and too little of the other."""
    inside = {"plain": [], "scaled": []}
    for seed in range(60):
        sizes = sizes_of(40)
        errors = errors_of(sizes, seed)
        new = errors_of({"new": sizes["task 0"]}, 1000 + seed)["new"]
        for name, by in (("plain", {task: np.ones(30) for task in sizes}), ("scaled", sizes)):
            radius = conformal_radius(divided(errors, by), 0.9)
            inside[name].append((new <= radius * by["task 0"]).reshape(2, 15).mean(1))
    plain, scaled = (np.mean(inside[name], axis=0) for name in ("plain", "scaled"))
    assert plain[0] > 0.99
    assert plain[1] < 0.86
    assert np.abs(scaled - 0.9).max() < 0.04


def plants(n, seed, rows=8):
    """Growth along a line whose slope differs from plant to plant: late heights are hard to know early."""
    rng = np.random.default_rng(seed)
    names = np.array([f"{seed}-{number}" for number in range(n)]).repeat(rows)
    day, slope = np.tile(np.arange(rows, dtype=float), n), rng.normal(3, 1, n).repeat(rows)
    height = 5 + slope * day + rng.normal(0, 0.2, n * rows)
    return pd.DataFrame({"plant": names, "day": day, "height": height})


@pytest.fixture(scope="module")
def model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back, and of the column day
        return MetaRegressor("R2D2", **QUICK).fit(plants(90, 0), **ROLES)


def test_intervals_are_wider_far_from_the_support(model):
    of_one = plants(1, 5)
    widths = np.ptp(model.adapt(of_one[:2]).predict_interval(of_one), axis=1)
    assert model._choices[2].scale.model == "MixedModel"
    assert widths[-1] > 2 * widths[1]
    before = np.ptp(model.adapt().predict_interval(of_one), axis=1)
    assert (before[2:] > widths[2:]).all()


def test_intervals_hold_their_share_early_and_late(model):
    found = []
    for _, of_one in plants(150, 7).groupby("plant"):
        support = of_one.sample(2, random_state=0)
        rest = of_one.drop(support.index)
        low, high = model.adapt(support).predict_interval(rest).T
        inside = (low <= rest.height) & (rest.height <= high)
        found.append(pd.DataFrame({"late": rest.day >= 4, "inside": inside}))
    share = pd.concat(found).groupby("late").inside.mean()
    assert share.between(0.82, 0.98).all()


def test_widths_are_kept_with_the_model_and_shown(model, tmp_path):
    of_one = plants(1, 5)
    model.save(tmp_path / "model")
    again = MetaRegressor.load(tmp_path / "model")
    one, other = (each.adapt(of_one[:3]).predict_interval(of_one, 0.8) for each in (model, again))
    np.testing.assert_array_equal(one, other)
    shown = f"{model._choices[2].half_width(0.9):.3g}"
    assert shown in (tmp_path / "model" / "README.md").read_text()


def test_rows_that_are_left_out_have_no_interval():
    frame = plants(90, 0).assign(dose=1.0)
    frame.loc[::50, "dose"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaRegressor("R2D2", **QUICK | {"n_query": 4}).fit(frame, missing="drop", **ROLES)
        new = plants(1, 5).assign(dose=[1.0, 1.0, np.nan, *[1.0] * 5])
        found = model.adapt(new[:2]).predict_interval(new)
    assert np.isnan(found).all(1).tolist() == [False, False, True, *[False] * 5]
