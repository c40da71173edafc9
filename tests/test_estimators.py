"""Regression estimators: scikit-learn's manners, what adapts, splits, intervals."""

import copy
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from small_sensors import MODELS, ROLES, TINY, fitted, sensors

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.data.tables.encoding import TableInputs
from metalens.estimators import training
from metalens.estimators.choice import Draw, scores_of
from metalens.estimators.cross_fitting import divide_table
from metalens.estimators.models import Candidate
from metalens.estimators.tables import row_sizes
from tests.choosing import choosing

pytestmark = pytest.mark.usefixtures("few_draws")
SHOTS = ()  # for `few_draws`


@pytest.fixture(scope="module")
def model():
    return fitted(regularizers=["trlearner"])


def test_settings_are_those_of_scikit_learn():
    model = MetaRegressor("anil(inner_lr=0.2)", regularizers=["TRLearner"], hidden=[4], seeds=2)
    twin = clone(model)
    assert twin is not model
    assert twin.get_params() == model.get_params()
    assert twin.set_params(steps=7, patience=3).get_params()["steps"] == 7
    assert repr(model).startswith("MetaRegressor(hidden=[4], learner='anil(inner_lr=0.2)'")
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize("use", ["adapt", "evaluate", "score", "relations", "save"])
def test_nothing_works_before_fit(use, tmp_path):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(MetaRegressor(), use)(tmp_path / "model" if use == "save" else sensors())


def test_a_clone_of_a_fitted_estimator_is_not_fitted(model):
    with pytest.raises(NotFittedError):
        clone(model).adapt(sensors(1))


def test_the_global_random_state_stays_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    fitted().adapt(sensors(1)).predict(sensors(1))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_failed_fit_leaves_no_half_fitted_estimator():
    model = fitted()
    with pytest.raises(MetaLensError, match="no column weight"):
        model.fit(sensors(), task="sensor", target="weight")
    with pytest.raises(NotFittedError):
        model.adapt(sensors(1))


def test_the_name_of_a_column_is_no_target():
    with pytest.raises(MetaLensError, match="got 'pressure'; name a column by target='pressure'"):
        MetaRegressor().fit(sensors(), "pressure")


def test_the_fall_back_is_chosen_with_one_warning_and_predicts_in_units_of_the_target():
    with pytest.warns(UserWarning, match="does not beat Ridge.*so Ridge adapts") as warned:
        model = MetaRegressor(**TINY, outer_lr=1e-9).fit(sensors(), **ROLES)
    assert len(warned) == 1
    assert model.chosen_ == "Ridge"
    new = sensors(1, rows=40, seed=1)
    predicted = model.adapt(new[:30]).predict(new[30:])
    assert predicted.shape == (10,)
    assert np.abs(predicted - new.pressure[30:]).max() < 10  # the noise has a deviation of 1, targets of 50


def test_without_a_fall_back_the_learner_adapts_and_a_warning_says_what_is_better():
    with pytest.warns(UserWarning, match="does not beat Ridge.*set fallback=True"):
        model = MetaRegressor(**TINY, outer_lr=1e-9, fallback=False).fit(sensors(), **ROLES)
    assert model.chosen_ == "ANIL"


def test_another_model_may_be_told_to_adapt(model, tmp_path):
    twin = copy.copy(model)
    twin.chosen_ = "JointModel"
    assert twin.chosen_ == "JointModel"
    assert model.chosen_ != "JointModel"
    one, other = (of.adapt(sensors(1)[:6]) for of in (twin, choosing(model, JointModel=1.0)))
    np.testing.assert_array_equal(one.predict(sensors(1)), other.predict(sensors(1)))
    with pytest.raises(MetaLensError, match="JointModel was not chosen by fit, so its intervals"):
        one.predict_interval(sensors(1))
    twin.save(tmp_path / "model")
    assert MetaRegressor.load(tmp_path / "model").chosen_ == "JointModel"
    with pytest.raises(MetaLensError, match=r"chosen_ must be one of ANIL, ProfileRidge, .*, got 'Oracle'"):
        twin.chosen_ = "Oracle"


def test_a_better_learner_is_chosen_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = {**TINY, "learner": None, "hidden": (16,), "steps": 120}
        settings["baselines"] = ("ProfileRidge", "JointModel", "MeanPredictor")
        model = MetaRegressor(**settings, outer_lr=0.01).fit(sensors(40), **ROLES)
    assert model.chosen_ == "R2D2"


def chosen(frame):
    """Return what is chosen where the learner has learned nothing, and the mean scores of the others."""
    frame["split"] = frame.sensor.map(lambda name: ["train", "val", "test", "test"][int(name[1:]) % 4])
    model = fitted(frame, {**ROLES, "splits": "split"}, outer_lr=1e-9)
    return model.chosen_, model.comparison_.groupby(["metric", "model"]).value.mean()


def test_tasks_with_wide_targets_do_not_decide_alone():
    frame = sensors(n=24, rows=16)
    wide = frame.sensor.isin(["s2", "s3"])  # of twelve held out; noise of 100 times the spread of others
    frame.loc[wide, "pressure"] = np.random.default_rng(2).normal(1000, 5000, wide.sum())
    name, means = chosen(frame)
    assert name != "MeanPredictor"
    assert means["rmse"]["MeanPredictor"] < means["rmse"]["Ridge"]


def test_predictions_that_are_but_correlated_are_not_chosen():
    frame = sensors(n=24, rows=16)
    frame["pressure"] = np.random.default_rng(1).normal(1000, 50, len(frame))
    name, means = chosen(frame)
    assert name in ("MeanPredictor", "JointModel")
    assert means["pearson_r2"]["Ridge"] > means["pearson_r2"]["MeanPredictor"]


def test_a_model_that_diverges_on_one_task_has_no_score(model):
    one = torch.ones(3, 1, dtype=torch.float64)
    draws = [
        Draw(task, one, one, {"Ridge": one * value}, one) for task, value in (("a", math.nan), ("b", 1.0))
    ]
    scores = scores_of(draws, model._scores)
    assert scores.value[scores.metric == "r2"].isna().tolist() == [True, False]
    lost = scores_of([draw._replace(task="a") for draw in draws], model._scores)
    assert lost.value.isna().any()  # one of two draws of a task


@pytest.mark.filterwarnings("ignore:2 of the 160 rows")
@pytest.mark.parametrize("missing", ["refuse", "drop"])
def test_the_splits_of_a_table_share_its_inputs(missing, monkeypatch):
    encoded, transform = [], TableInputs.transform
    monkeypatch.setattr(TableInputs, "transform", lambda self, x: encoded.append(x) or transform(self, x))
    frame = sensors()
    if missing == "drop":
        frame.loc[[3, 90], "voltage"] = np.nan
    reader, tasks, _ = divide_table(
        Columns(**ROLES, missing=missing),
        frame,
        Division(splits=(0.4, 0.3, 0.3)),
        may_fold=True,
        k_shot=3,
        n_query=3,
        seed=0,
        classes=False,
    )
    assert len(encoded) == 1
    for split in tasks:
        task = tasks[split][0]
        rows = frame[frame.sensor == tasks[split].task_name(0)].dropna()
        of_task = {tuple(row) for row in transform(reader.encoding, rows).round(4).tolist()}
        assert {tuple(row) for row in task.query.x.numpy().round(4).tolist()} <= of_task


def test_each_model_adapts_once_to_each_held_out_task(monkeypatch):
    adapted, adapt = [], Candidate.adapt
    monkeypatch.setattr(Candidate, "adapt", lambda self, x: adapted.append(self.name) or adapt(self, x))
    model = fitted(fallback=False)
    n = len(adapted) // len(MODELS)
    assert adapted == MODELS * n
    (choice,) = model._choices.values()
    assert len(choice.residuals) == choice.n_tasks == 2 * model.comparison_.task.nunique()
    errors = [np.sqrt(np.mean(of_task**2)) for of_task in choice.residuals[choice.n_tasks // 2 :]]
    rows = model.comparison_[(model.comparison_.model == "ANIL") & (model.comparison_.metric == "rmse")]
    np.testing.assert_allclose(errors, rows.value)  # a task that is drawn once


def test_all_models_are_scored_on_the_same_held_out_tasks_in_units(model):
    rows = model.comparison_
    tasks = {name: set(of_model.task) for name, of_model in rows.groupby("model", sort=False)}
    assert list(tasks) == MODELS
    assert all(of_model == tasks["ANIL"] for of_model in tasks.values())
    assert rows.metric.unique().tolist() == ["r2", "pearson_r2", "rmse"]
    means = rows.pivot_table(index="model", columns="metric", values="value")
    assert 20 < means.rmse["MeanPredictor"] < 200  # the targets of a task have a deviation of about 50


def test_held_out_tasks_teach_nothing():
    frame = sensors()
    frame["split"] = frame.sensor.map(lambda name: ["train", "train", "val", "test"][int(name[1:]) % 4])
    changed = frame.copy()
    held_out = changed.split == "test"
    changed.loc[held_out, ["pressure", "voltage"]] *= 1e3
    changed.loc[held_out, "kind"] = "square"
    one, other = (fitted(data, {**ROLES, "splits": "split"}, fallback=False) for data in (frame, changed))
    assert one.reader_ == other.reader_
    assert list(one._trained) == ["ANIL", "ProfileRidge", "JointModel"]
    for name in one._trained:
        weights, others = (of._trained[name][0].state_dict() for of in (one, other))
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert set(one.comparison_.task) == set(frame.sensor[held_out])
    assert "split" not in one.feature_names_in_


def test_scales_are_those_of_training_tasks_alone():
    frame = sensors()
    frame["split"] = frame.sensor.map(lambda name: ["train", "train", "val", "test"][int(name[1:]) % 4])
    model = fitted(frame, {**ROLES, "splits": "split"})
    train = frame[frame.split == "train"]
    reader = model.reader_
    assert reader.mean == pytest.approx(train.pressure.mean())
    assert reader.deviation == pytest.approx(train.pressure.std(ddof=0))
    (voltage,) = [column for column in reader.encoding.columns if column.name == "voltage"]
    assert voltage.mean == pytest.approx(train.voltage.mean())


def test_training_ends_when_patience_does(monkeypatch):
    monkeypatch.setattr(training, "EVERY", 1)
    curve = fitted(steps=20, patience=2, outer_lr=1e-12).curve_
    # The first validation is the best one, if only by rounding; two more are not better.
    assert curve.step.max() < 20
    assert set(curve.split) == {"train", "val"}


def test_sizes_are_chosen_by_those_of_tasks():
    frame = pd.DataFrame({"t": [f"a{i}" for i in range(20) for _ in range(10)]})
    assert row_sizes(frame.t, None, None) == (5, 5)
    assert row_sizes(pd.concat([frame] * 10).t, None, None) == (16, 48)
    assert row_sizes(frame.t, 3, None) == (3, 7)
    assert row_sizes(frame.t, 3, 2) == (3, 2)
    assert row_sizes(frame.t[::5], None, None) == (1, 1)


def test_progress_is_told():
    told = []

    def progress(model):
        return lambda step, loss: told.append((model, step))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MetaRegressor(**TINY).fit(sensors(), **ROLES, progress=progress)
    assert told == [("ANIL", 1), ("ANIL", 2), ("JointModel", 1), ("JointModel", 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_query": -1}, "n_query must be at least 1"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"learner": "MAMBA"}, "There is no learner 'MAMBA'; choose from"),
        ({"learner": "ANIL(speed=3)"}, "ANIL has no setting 'speed'"),
        ({"regularizers": ["TR"]}, "There is no regularizer 'TR'"),
        ({"k_shot": 8}, r"none has k_shot \+ n_query = 12 rows; lower them"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(MetaLensError, match=message):
        fitted(**settings)


def test_too_few_tasks_are_one_sentence():
    with pytest.raises(MetaLensError, match=r"The val split has 0 tasks"):
        fitted(sensors(3))


def test_intervals_of_an_estimator_cover_new_tasks():
    # 20 held-out tasks and 100 new ones, one query each: the share inside has a standard error of 0.08, of
    # which 0.07 are of the calibration. Below 0.8 - 3.1 * 0.08 with a probability of 0.001 if they cover 0.8.
    train = sensors(60).assign(
        split=lambda f: f.sensor.map(lambda s: ["train", "val", "test"][int(s[1:]) % 3])
    )
    model = fitted(train, {**ROLES, "splits": "split"}, k_shot=4)
    inside = []
    for number in range(60):
        new = sensors(1, rows=5, seed=100 + number)
        ((low, high),) = model.adapt(new[:4]).predict_interval(new[4:], coverage=0.8)
        assert low < high
        inside.append(low <= new.pressure[4] <= high)
    assert np.mean(inside) > 0.8 - 3.1 * 0.1


def test_intervals_are_refused_where_they_were_not_calibrated(model):
    with pytest.raises(MetaLensError, match="k_shot=4 support rows, and this task has 3"):
        model.adapt(sensors(1)[:3]).predict_interval(sensors(1))
    with pytest.raises(MetaLensError, match="need 9 calibration tasks, and there were 6"):
        model.adapt(sensors(1)).predict_interval(sensors(1))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"grup": "kind"}, "MetaRegressor.fit has no setting grup; the nearest is group"),
        ({"split": (0.5, 0.2, 0.3)}, "MetaRegressor.fit has no setting split; the nearest is splits"),
        ({"steps": 5}, r"MetaRegressor.fit has no setting steps; write MetaRegressor\(steps=5\)\.fit"),
        ({"zzz": 5}, "MetaRegressor.fit has no setting zzz; there are y, groups, task, target, splits"),
    ],
)
def test_unknown_settings_of_fit_are_one_sentence(option, message):
    with pytest.raises(MetaLensError, match=message):
        MetaRegressor(**TINY).fit(sensors(), **ROLES, **option)
    with pytest.raises(
        MetaLensError, match=r"MetaClassifier.fit has no setting taget; the nearest is target"
    ):
        MetaClassifier().fit(sensors(), taget="kind")
