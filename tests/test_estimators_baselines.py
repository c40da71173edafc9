"""Regression estimators: the baselines that they are compared with."""

import pandas as pd
import pytest
from sklearn.base import clone
from small_sensors import FEW, ROLES, fitted, sensors

from metalens import JointModel, MetaLensError, MetaRegressor
from metalens.errors import DivergenceError
from metalens.estimators import training

pytestmark = pytest.mark.usefixtures("few_draws")
SHOTS = ()  # for `few_draws`


@pytest.fixture(scope="module")
def model():
    return fitted(regularizers=["trlearner"])


def test_profile_sees_each_training_task_as_one():
    frame = sensors(n=20, rows=20)
    frame["split"] = frame.sensor.map(lambda name: ["train", "train", "val", "test"][int(name[1:]) % 4])
    model = fitted(frame, {**ROLES, "splits": "split"}, seeds=2)
    (profile,) = model._trained["ProfileRidge"]
    assert len(profile.learner.slopes) == 10
    assert len(model._trained["JointModel"]) == len(model._trained["ANIL"]) == 2


@pytest.mark.filterwarnings("ignore:On 6 held-out tasks")
def test_a_baseline_that_diverges_is_left_out(tmp_path, monkeypatch):
    def diverge(objectives, *args, **settings):
        if isinstance(objectives[0].learner, JointModel):
            raise DivergenceError("The loss is nan at step 2.")
        return fit_together(objectives, *args, **settings)

    fit_together = training.fit_together
    monkeypatch.setattr(training, "fit_together", diverge)
    with pytest.warns(UserWarning, match="baseline JointModel is left out: The loss is nan at step 2"):
        model = MetaRegressor("R2D2", steps=2, hidden=(8,), baselines=FEW).fit(sensors(), **ROLES)
    assert "JointModel" not in set(model.comparison_.model)
    model.save(tmp_path / "model")
    assert list(MetaRegressor.load(tmp_path / "model")._trained) == ["R2D2", "ProfileRidge"]


def test_baselines_are_named_with_settings_and_saved(tmp_path):
    model = fitted(baselines=["KNN(n_neighbors=1)", "JointModel"])
    assert model.comparison_.model.unique().tolist() == ["ANIL", "KNN", "JointModel"]
    assert list(model._trained) == ["ANIL", "JointModel"]
    assert model._candidate("KNN", 1).learners[0].n_neighbors == 1
    model.save(tmp_path / "model")
    again = MetaRegressor.load(tmp_path / "model")
    assert again.baselines == ("KNN(n_neighbors=1)", "JointModel")
    pd.testing.assert_frame_equal(again.evaluate(sensors(3)), model.evaluate(sensors(3)))


def test_without_baselines_the_learner_stands_alone():
    model = fitted(baselines=())
    assert model.comparison_.model.unique().tolist() == [model.chosen_] == ["ANIL"]


def test_the_usual_baselines_learn_across_tasks_and_within_one(model):
    twin = clone(model).set_params(baselines=None)
    twin.reader_ = model.reader_
    usual = ["MixedModel", "R2D2", "Shrunken", "ResidualGP", "MultiTaskGP", "ProfileRidge", "JointModel"]
    assert list(twin._baselines()) == [*usual, "MeanPredictor", "Ridge", "GaussianProcess"]
    twin.learner = None  # which is R2D2 itself
    assert list(twin._baselines())[1] == "R2D2(prior_mean=True)"


def test_the_learner_with_other_settings_may_be_a_baseline(tmp_path):
    model = fitted(learner="R2D2", baselines=["R2D2(ridge=5.0)", "R2D2", "Ridge"])
    assert model.comparison_.model.unique().tolist() == ["R2D2", "R2D2(ridge=5.0)", "Ridge"]
    assert list(model._trained) == ["R2D2", "R2D2(ridge=5.0)"]
    model.save(tmp_path / "model")
    again = MetaRegressor.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.evaluate(sensors(3)), model.evaluate(sensors(3)))


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        (["Forest"], "There is no baseline 'Forest'; choose from NearestFeatureMean, "),
        (["KNN", "KNN(n_neighbors=1)"], "baselines must name each learner once, got KNN, KNN"),
    ],
)
def test_wrong_baselines_are_refused_before_training(baselines, message, monkeypatch):
    monkeypatch.setattr(training, "fit_together", None)
    with pytest.raises(MetaLensError, match=message):
        fitted(baselines=baselines)
