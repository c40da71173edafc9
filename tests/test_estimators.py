"""Regression estimators: scikit-learn's manners, units, splits, intervals, mistakes."""

import copy
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from metalens import JointModel, MetaLensError, MetaRegressor
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.data.tables.encoding import TableInputs
from metalens.errors import DivergenceError
from metalens.estimators import draws, training
from metalens.estimators.choice import Draw, scores_of
from metalens.estimators.cross_fitting import divide_table
from metalens.estimators.models import Candidate
from metalens.estimators.tables import row_sizes
from tests.choosing import choosing

FEW = ("ProfileRidge", "JointModel", "MeanPredictor", "Ridge")
TINY = {"learner": "ANIL", "hidden": (8,), "steps": 2, "k_shot": 4, "n_query": 4, "baselines": FEW}
ROLES = {"task": "sensor", "target": "pressure"}
MODELS = ["ANIL", "ProfileRidge", "JointModel", "MeanPredictor", "Ridge"]


def sensors(n=20, rows=8, seed=0, start=0):
    """Lines with a slope and an offset of their own, in large units, and words that add to them."""
    rng = np.random.default_rng(seed)
    sensor = np.repeat(np.arange(n), rows)
    frame = pd.DataFrame({"sensor": [f"s{start + i}" for i in sensor], "voltage": rng.normal(size=n * rows)})
    frame["kind"] = rng.choice(["round", "flat"], n * rows)
    slope, offset = rng.normal(size=(2, n))
    frame["pressure"] = 1000 + 50 * (slope[sensor] * frame.voltage + offset[sensor])
    frame["pressure"] += 20 * (frame.kind == "flat") + rng.normal(size=n * rows)
    return frame


def fitted(frame=None, roles=ROLES, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back, which has its own test
        return MetaRegressor(**{**TINY, **settings}).fit(sensors() if frame is None else frame, **roles)


@pytest.fixture(scope="module", autouse=True)
def _little_to_do():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 3)
        patch.setattr(draws, "SHOTS", ())
        yield


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


def test_any_number_of_support_rows_will_do(model):
    new = sensors(1, rows=60, seed=2)
    for n in (1, 2, 30):
        predicted = model.adapt(new[:n]).predict(new[30:])
        assert np.isfinite(predicted).all()
        assert model.adapt(new[:n]).n_support == n


def test_rows_are_predicted_one_by_one_as_together(model):
    new = sensors(1, rows=12, seed=3)
    adapted = model.adapt(new[:6])
    together = adapted.predict(new[6:])
    alone = [adapted.predict(new[row : row + 1])[0] for row in range(6, 12)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_new_rows_may_have_new_categories_and_further_columns_in_any_order(model):
    new = sensors(1, rows=12, seed=4)
    adapted = model.adapt(new[:6])
    other = new[6:].assign(kind="hexagonal", color="red")[["color", "kind", "voltage"]]
    with pytest.warns(
        UserWarning, match="All of the 6 cells of column kind hold categories that no training"
    ):
        neither = adapted.predict(other)
    assert np.isfinite(neither).all()
    assert model.feature_names_in_.tolist() == ["voltage", "kind"]


def test_files_are_read_as_frames_are(model, tmp_path):
    new = sensors(1, rows=12, seed=5)
    new.to_csv(tmp_path / "new.csv", index=False)
    again = pd.read_csv(tmp_path / "new.csv")
    expected = model.adapt(again).predict(again)
    np.testing.assert_array_equal(model.adapt(tmp_path / "new.csv").predict(tmp_path / "new.csv"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="voltage"), "no column voltage; it has sensor, kind, pressure"),
        (lambda f: f.drop(columns="pressure"), "no column pressure"),
        (lambda f: f.assign(voltage=f.voltage.astype(object).where(f.index != 2, "high")), "Row 3 of colu"),
        (lambda f: f.assign(voltage=f.voltage.where(f.index != 2, math.inf)), "Row 3 .* a finite number"),
        (lambda f: f.assign(voltage=f.voltage.where(f.index != 2)), "Row 3 of column voltage is empty"),
        (lambda f: f.assign(pressure=f.pressure.where(f.index != 1)), "Row 2 of column pressure is empty"),
        (lambda f: f.assign(pressure=["low"] * len(f)), "Row 1 .* must be a number, got 'low'"),
        (lambda f: f.assign(sensor=["a", "b"] * (len(f) // 2)), "rows of 2 tasks by its column sensor"),
        (lambda f: f[:0], "has no rows"),
        (lambda f: f.to_numpy(), "must be a data frame, the path of a file, or arrays by name, got ndarray"),
    ],
)  # fmt: skip
def test_a_support_that_cannot_be_used_is_refused_with_its_place(model, change, message):
    with pytest.raises(MetaLensError, match=message):
        model.adapt(change(sensors(1)))


def test_queries_that_cannot_be_used_are_refused_with_their_place(model):
    adapted = model.adapt(sensors(1))
    with pytest.raises(MetaLensError, match="no column kind"):
        adapted.predict(sensors(1)[["voltage"]])
    with pytest.raises(MetaLensError, match="Row 2 of column voltage must be a number"):
        adapted.predict(pd.DataFrame({"voltage": [1, "x", 2], "kind": "flat"}))


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


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"task": "patient", "target": "pressure"}, "no column patient"),
        ({"task": "sensor", "target": "kind"}, "column kind must be a number"),
        ({**ROLES, "inputs": "voltage"}, "inputs must be a list of columns, got the text 'voltage'"),
        ({**ROLES, "splits": (0.9, 0.1)}, "three shares"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(roles, message):
    with pytest.raises(MetaLensError, match=message):
        fitted(roles=roles)


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


def test_new_tables_are_evaluated_as_held_out_tasks_are(model):
    new = sensors(6, seed=7, start=100)
    rows = model.evaluate(new)
    assert set(rows.task) == {f"s{i}" for i in range(100, 106)}
    assert set(rows.model) == set(MODELS)
    of_chosen = rows[(rows.model == model.chosen_) & (rows.metric == "r2")]
    assert model.score(new) == pytest.approx(of_chosen.value.mean())
    assert not rows.equals(model.evaluate(new, k_shot=2, n_query=1))


def test_relations_of_new_tasks_are_mapped_by_name(model):
    found = model.relations(sensors(6, seed=8, start=100), n_groups=2)
    assert set(found.names) == {f"s{i}" for i in range(100, 106)}
    assert found.matrix.shape == (6, 6)
    assert found.n_groups == 2


def test_missing_cells_are_filled_where_that_is_asked_for():
    frame = sensors()
    frame.loc[::7, "voltage"] = math.nan
    model = fitted(frame, {**ROLES, "missing": "mean"})
    new = sensors(1)
    adapted = model.adapt(new)
    hole = pd.DataFrame({"voltage": [math.nan], "kind": ["flat"]})
    assert np.isfinite(adapted.predict(hole)).all()


@pytest.mark.filterwarnings("ignore:.* of the 6 tasks", "ignore:On . held-out tasks")
def test_small_tasks_are_left_out_with_a_count():
    frame = sensors(40)
    small = frame.sensor.isin([f"s{i}" for i in range(10)])
    frame = frame[~small | (frame.groupby("sensor").cumcount() < 3)]
    with pytest.warns(UserWarning, match=r"of the 28 tasks of the train split have fewer than k_shot"):
        MetaRegressor(**TINY).fit(frame, **ROLES)


def test_molecules_are_inputs(monkeypatch, tmp_path):
    pytest.importorskip("rdkit")
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))
    frame = sensors().assign(molecule=lambda f: ["C" * (1 + i % 9) + "O" * (i % 2) for i in f.index])
    model = fitted(frame, {**ROLES, "smiles": "molecule", "duplicates": "allow"})
    assert model.feature_names_in_.tolist() == ["molecule"]
    adapted = model.adapt(frame[:8])
    assert adapted.predict(pd.DataFrame({"molecule": ["CCN", "c1ccccc1"]})).shape == (2,)
    with pytest.raises(MetaLensError, match="The molecule 'water' in row 1 of column molecule is none"):
        adapted.predict(pd.DataFrame({"molecule": ["water"]}))


def test_arrays_are_tables_too():
    frame = sensors().drop(columns="kind")
    arrays = {
        "sensor": frame.sensor,
        "x": frame[["voltage", "pressure"]].to_numpy(),
        "pressure": frame.pressure,
    }
    model = fitted(arrays)
    assert model.feature_names_in_.tolist() == ["x 0", "x 1"]
    few = {name: values[:8] for name, values in arrays.items()}
    adapted = model.adapt(few)
    np.testing.assert_array_equal(adapted.predict(few), adapted.predict(few["x"]))
    with pytest.raises(MetaLensError, match=r"must have the 2 columns x 0, x 1, got the shape \(8, 1\)"):
        adapted.predict(few["x"][:, :1])
    with pytest.raises(MetaLensError, match=r"one or two axes, got \(8, 1, 2\)"):
        adapted.predict({"x": few["x"][:, None]})
    with pytest.raises(MetaLensError, match=r"the lengths \[7, 8\]"):
        model.adapt({**few, "pressure": few["pressure"][:7]})


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


def test_a_column_that_is_constant_but_for_rounding_may_have_other_values():
    frame = sensors().assign(size=0.1)
    new = sensors(1, seed=5).assign(size=0.3)
    assert np.isfinite(fitted(frame).adapt(new[:5]).predict(new[5:])).all()


def test_progress_is_told():
    told = []

    def progress(model):
        return lambda step, loss: told.append((model, step))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MetaRegressor(**TINY).fit(sensors(), **ROLES, progress=progress)
    assert told == [("ANIL", 1), ("ANIL", 2), ("JointModel", 1), ("JointModel", 2)]


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


def test_ready_made_inputs_are_refused():
    with pytest.raises(MetaLensError, match="inputs must name columns, got an array"):
        fitted(roles={**ROLES, "inputs": np.arange(160.0)[:, None]})
