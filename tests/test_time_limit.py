"""A fit keeps to its time limit, by a clock that the tests turn."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import (
    MAML,
    MetaClassifier,
    MetaLensError,
    MetaRegressor,
    MixedModel,
    Objective,
    Sinusoid,
    fit,
    mlp,
)
from metalens.cli import main
from metalens.estimators import draws, load_model, regressor, time_limit, training
from metalens.estimators.models import Candidate
from metalens.estimators.time_limit import TRAIN_BASELINES, TimeLimit, left_out_in_words

ROLES = {"task": "sensor", "target": "pressure"}


class Clock:
    """Seconds that pass only when it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def of(self, model):
        """Return the progress of a model: one second for each step."""

        def progress(step, loss):
            self.now += 1

        return progress


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time_limit, "clock", clock)
    return clock


@pytest.fixture(scope="module", autouse=True)
def _little_to_do():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 3)
        patch.setattr(draws, "SHOTS", ())
        patch.setattr(training, "EVERY", 5)
        yield


def sensors(n=20, rows=8):
    rng = np.random.default_rng(0)
    sensor = np.repeat(np.arange(n), rows)
    frame = pd.DataFrame({"sensor": sensor, "voltage": rng.normal(size=n * rows)})
    slope, offset = rng.normal(size=(2, n))
    return frame.assign(pressure=slope[sensor] * frame.voltage + offset[sensor])


def fitted(learner="R2D2", baselines=("JointModel", "MeanPredictor", "Ridge"), **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back, and of what is left out
        model = MetaRegressor(learner, steps=how.pop("steps", 30), hidden=(8,), k_shot=4, n_query=4,
                              baselines=baselines, seeds=how.pop("seeds", 1))  # fmt: skip
        return model.fit(sensors(), **ROLES, **how)


def weights_of(model, name):
    return [objective.state_dict() for objective in model._trained[name]]


def assert_equal(one, other):
    for of_one, of_other in zip(one, other, strict=True):
        assert all(torch.equal(of_one[name], of_other[name]) for name in of_one)


def test_trainings_end_by_their_shares_with_the_best_weights_so_far(clock):
    baselines = ("JointModel", "MixedModel", "MultiTaskGP", "R2D2(prior_mean=True)")
    model = fitted(baselines=baselines, time_limit=20, progress=clock.of)
    assert model.left_out_ == {
        "R2D2": "stopped after 11 of 30 steps",
        "JointModel": "stopped after 2 of 30 steps",  # it has half of the three seconds that are left
        "R2D2(prior_mean=True)": "stopped after 1 of 30 steps",
        "MultiTaskGP": "not trained",
    }
    assert list(model._trained) == ["R2D2", "JointModel", "MixedModel", "R2D2(prior_mean=True)"]
    assert set(model.comparison_.model) == {*model._trained}
    assert clock.now == 114  # 11 + 2 + 1 steps
    whole = fitted(baselines=(), steps=10)
    assert_equal(weights_of(model, "R2D2"), weights_of(whole, "R2D2"))


def test_a_slow_table_or_baseline_leaves_the_meta_learner_a_share(clock, monkeypatch):
    def slowly(self, tasks):
        clock.now += 30
        return prepare(self, tasks)

    prepare, read = MixedModel.prepare, regressor.divide_table
    monkeypatch.setattr(MixedModel, "prepare", slowly)
    one = fitted(baselines=("MixedModel",), time_limit=40, progress=clock.of)
    assert one.left_out_ == {"R2D2": "stopped after 6 of 30 steps"}  # 15 % of 40 seconds, and not none
    monkeypatch.setattr(
        regressor, "divide_table", lambda *a, **k: setattr(clock, "now", clock.now + 20) or read(*a, **k)
    )
    other = fitted(baselines=(), time_limit=40, progress=clock.of)
    assert other.left_out_ == {"R2D2": "stopped after 11 of 30 steps"}  # 55 % of the 20 that are left


def test_seeds_that_are_trained_in_turn_have_equal_parts(clock, monkeypatch):
    def alone(objectives, *args, **settings):
        if len(objectives) > 1:
            raise training.ReplicationError("They differ.")
        return fit_together(objectives, *args, **settings)

    fit_together = training.fit_together
    monkeypatch.setattr(training, "fit_together", alone)
    steps = []

    def tick(step, loss):
        clock.now += 1
        steps.append(step)

    fitted(baselines=(), seeds=3, time_limit=20, progress=lambda name: tick)
    starts = [place for place, step in enumerate(steps) if step == 1]
    assert np.diff([*starts, len(steps)]).tolist() == [4, 4, 3]


def slow(clock, monkeypatch, **seconds):
    """Let models take a time for each task."""
    adapt = Candidate.adapt

    def slowly(self, support):
        clock.now += seconds.get(self.name, 0.0)
        return adapt(self, support)

    monkeypatch.setattr(Candidate, "adapt", slowly)


def test_slow_models_are_left_out_of_the_comparison_and_the_rest_is_as_without_them(clock, monkeypatch):
    slow(clock, monkeypatch, R2D2=1.0, Ridge=2.0, GaussianProcess=3.0, MeanPredictor=0.1)
    n = 2 * fitted(baselines=()).comparison_.task.nunique()  # as many tasks validate
    limit = (3.1 * n + 7) / 0.9  # two tasks, until it is known how slow models are, and the quick ones
    model = fitted(baselines=("GaussianProcess", "Ridge", "MeanPredictor"), time_limit=limit)
    assert model.left_out_ == {"GaussianProcess": "not compared"}
    assert clock.now - 100 < limit + n  # the other fit took n seconds
    other = fitted(baselines=("Ridge", "MeanPredictor"))
    pd.testing.assert_frame_equal(model.comparison_, other.comparison_)
    assert model.weights_ == other.weights_


def test_the_meta_learner_and_the_quickest_baseline_are_always_compared(clock, monkeypatch):
    slow(clock, monkeypatch, R2D2=50.0, Ridge=2.0, MeanPredictor=2.1, JointModel=2.2)
    model = fitted(time_limit=5)
    assert set(model.comparison_.model) == {"R2D2", "Ridge"}
    assert model.left_out_ == {"JointModel": "not compared", "MeanPredictor": "not compared"}


def test_choices_for_other_numbers_of_support_rows_are_left_out(clock, monkeypatch):
    monkeypatch.setattr(draws, "SHOTS", (0, 1, 3))
    monkeypatch.setattr(draws, "_MIN_TASKS", 1)
    slow(clock, monkeypatch, R2D2=1.0, MeanPredictor=1.0, Ridge=1.0, JointModel=1.0)
    model = fitted()
    assert sorted(model.weights_) == [0, 1, 3, 4]
    assert model.left_out_ == {}
    n = 2 * model.comparison_.task.nunique()
    model = fitted(time_limit=1 + (4 + 2) * n)
    assert sorted(model.weights_) == [0, 4]
    assert model.left_out_ == {"choices for 1, 3 support rows": "not made"}
    assert model.adapt(sensors(1)[:2]).model == model._choices[0].model


def test_models_that_are_not_compared_are_not_chosen_for_other_numbers_either(clock, monkeypatch):
    monkeypatch.setattr(draws, "SHOTS", (0, 1, 3))
    monkeypatch.setattr(draws, "_MIN_TASKS", 1)
    slow(clock, monkeypatch, R2D2=0.1, MeanPredictor=0.1, Ridge=0.1, JointModel=9.0)
    model = fitted(time_limit=50)
    assert model.left_out_ == {"JointModel": "not compared"}
    assert sorted(model.weights_) == [0, 1, 3, 4]
    assert all("JointModel" not in choice.means for choice in model._choices.values())
    assert "JointModel" in set(model.evaluate(sensors(4)).model)  # it is trained


def test_without_a_limit_the_clock_is_not_asked_and_a_long_one_changes_nothing(clock, monkeypatch):
    long = fitted(time_limit=1e6, progress=clock.of)
    assert long.left_out_ == {}
    monkeypatch.setattr(time_limit, "clock", None)
    free = fitted()
    assert_equal(weights_of(long, "R2D2"), weights_of(free, "R2D2"))
    pd.testing.assert_frame_equal(long.comparison_, free.comparison_)
    assert fitted(time_limit=math.inf).left_out_ == {}


def test_what_was_left_out_is_said_and_saved(clock, tmp_path):
    with pytest.warns(UserWarning, match="To keep to the time limit") as warned:
        model = MetaRegressor(steps=30, hidden=(8,), k_shot=4, n_query=4, baselines=("MeanPredictor",)).fit(
            sensors(), **ROLES, time_limit=10, progress=clock.of
        )
    sentence = (
        "To keep to the time limit, parts were left out or cut short: R2D2 (stopped after 6 of 30 steps)."
    )
    assert [str(one.message) for one in warned].count(sentence) == 1
    assert left_out_in_words(model.left_out_) == sentence
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").left_out_ == model.left_out_
    path = tmp_path / "model" / "model.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "left_out": {"R2D2": 3}}))
    with pytest.raises(MetaLensError, match="what was left out is not as expected"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_a_limit_that_is_none_is_refused(seconds):
    with pytest.raises(MetaLensError, match=f"time_limit must be above 0 seconds, got {seconds}"):
        MetaClassifier().fit(sensors(), target="sensor", time_limit=seconds)


def test_the_time_of_a_share_is_divided_among_what_is_left(clock):
    limit = TimeLimit(100)
    clock.now += 10
    watch = limit.stopwatch("R2D2", None, 99, TRAIN_BASELINES).part(3)  # 20 of 60 seconds
    clock.now += 19
    assert not watch(1, 0.0)
    clock.now += 1
    assert watch(2, 0.0)
    assert limit.cut == {"R2D2": "stopped after 2 of 99 steps"}
    assert not limit.stopwatch("ANIL", None, 2, TRAIN_BASELINES).part(1000)(2, 0.0)  # its last step


@pytest.mark.parametrize("seconds", [None, math.inf])
def test_without_a_limit_none_of_several_trainings_is_cut(seconds):
    limit = TimeLimit(seconds)
    assert not limit.stopwatch("R2D2", None, 99, TRAIN_BASELINES).part(2)(1, 0.0)
    assert limit.cut == {}


@pytest.mark.slow
def test_the_command_line_has_a_limit_that_the_report_names(tmp_path, monkeypatch, capsys):
    sensors().to_csv(tmp_path / "sensors.csv", index=False)
    monkeypatch.chdir(tmp_path)
    words = "train --data sensors.csv --task sensor --target pressure --k_shot 4 --steps 3 --time_limit 1e-9"
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main([*words.split(), "--baselines", "MixedModel", "MeanPredictor", "--meta_batch_size", "2"])
    note = "note: To keep to the time limit, parts were left out or cut short: MixedModel (not trained), "
    sentence = "R2D2 (stopped after 1 of 3 steps)"
    assert note + sentence in capsys.readouterr().err
    page = (tmp_path / "model" / "report.html").read_text()
    assert sentence in page
    assert "<dt><code>time_limit</code></dt><dd><code>1e-09</code></dd>" in page


def test_a_training_that_is_stopped_has_its_best_weights_and_goes_on_from_there(tmp_path):
    def trained(folder, progress=None, resume=False):
        torch.manual_seed(0)
        objective = Objective(MAML(mlp(hidden=(8,)), inner_lr=0.1))
        curve = fit(objective, Sinusoid(), steps=6, meta_batch_size=2, out=folder, resume=resume,
                    on_step=progress)  # fmt: skip
        return objective.state_dict(), curve

    whole, curve = trained(tmp_path / "whole")
    stopped, short = trained(tmp_path / "stopped", lambda step, loss: step == 2)
    assert short.step.max() == 2
    assert not all(torch.equal(stopped[name], whole[name]) for name in whole)
    again, rows = trained(tmp_path / "stopped", resume=True)
    assert_equal([again], [whole])
    pd.testing.assert_frame_equal(rows, curve)
