"""Saved estimators: whole, the same after loading, refused where they are damaged, and never code."""

import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import load_model
from tests.choosing import choosing

pytestmark = pytest.mark.usefixtures("few_draws")
SHOTS = ()  # for `few_draws`

FILES = {"README.md", "model.json", "weights.safetensors", "comparison.csv", "curve.csv"}


def sensors(n=20, rows=8, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"sensor": np.repeat(np.arange(n), rows), "voltage": rng.normal(size=n * rows)})
    frame["kind"] = rng.choice(["round", "flat"], n * rows)
    frame["pressure"] = 1000 + 50 * frame.voltage * (1 + frame.sensor % 3) + rng.normal(size=n * rows)
    return frame


def fitted(**settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back
        settings = {"learner": "ANIL", "hidden": (8,), "steps": 2, "k_shot": 4, "n_query": 4} | settings
        settings.setdefault("baselines", ("ProfileRidge", "JointModel", "MeanPredictor", "Ridge"))
        model = MetaRegressor(**settings)
        return model.fit(sensors(), task="sensor", target="pressure", categorical=["kind"])


@pytest.fixture(scope="module")
def model():
    return fitted(seeds=2, regularizers=("TRLearner(weight=0.1)",), fallback=False)


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("fallback", [True, False])
def test_predictions_and_intervals_after_loading_are_the_same_bit_by_bit(fallback, tmp_path):
    model = fitted(seeds=2, outer_lr=1e-9, fallback=fallback)
    assert model.chosen_ == ("Ridge" if fallback else "ANIL")
    model.save(tmp_path / "model")
    again = MetaRegressor.load(tmp_path / "model")
    new = sensors(1, rows=20, seed=1)
    one, other = (of.adapt(new[:10]) for of in (model, again))
    np.testing.assert_array_equal(one.predict(new[10:]), other.predict(new[10:]))
    np.testing.assert_array_equal(one.predict_interval(new, 0.5), other.predict_interval(new, 0.5))


def test_all_that_was_found_is_loaded(model, folder):
    again = load_model(folder)
    assert isinstance(again, MetaRegressor)
    assert again.get_params() == model.get_params()
    assert (again.chosen_, again.k_shot_) == (model.chosen_, model.k_shot_)
    assert again.feature_names_in_.tolist() == ["voltage", "kind"]
    pd.testing.assert_frame_equal(again.comparison_, model.comparison_.astype({"task": str}))
    pd.testing.assert_frame_equal(again.curve_, model.curve_)
    new = sensors(6, seed=2)
    pd.testing.assert_frame_equal(again.evaluate(new), model.evaluate(new))
    np.testing.assert_array_equal(again.relations(new).matrix, model.relations(new).matrix)


def test_a_classical_learner_and_settings_of_numpy_are_saved_as_well(tmp_path):
    model = fitted(learner="Ridge", random_state=np.int64(3))
    assert model.chosen_ == "Ridge"
    assert set(model.comparison_.model) == {"Ridge", "ProfileRidge", "JointModel", "MeanPredictor"}
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.random_state == 3
    np.testing.assert_array_equal(*(of.adapt(sensors(1)).predict(sensors(1)) for of in (model, again)))


@pytest.mark.parametrize(
    "weights", [{"ProfileRidge": 1.0}, {"JointModel": 1.0}, {"ANIL": 0.5, "Ridge": 0.25, "JointModel": 0.25}]
)
def test_all_that_may_adapt_is_saved(model, weights, tmp_path):
    model = choosing(model, **weights)
    model.save(tmp_path / "model")
    again, new = load_model(tmp_path / "model"), sensors(1, rows=20, seed=1)
    predicted, other = (of.adapt(new[:10]).predict(new[10:]) for of in (model, again))
    np.testing.assert_array_equal(predicted, other)
    assert predicted.std() > 1
    parts = [w * choosing(model, **{n: 1.0}).adapt(new[:10]).predict(new[10:]) for n, w in weights.items()]
    np.testing.assert_allclose(predicted, np.sum(parts, axis=0))


POOLED = ("MixedModel", "Boosting(max_rounds=9)", "Shrunken(mean=linear)", "ResidualGP(mean=linear)")


def test_models_of_partial_pooling_are_saved_as_well(tmp_path):
    model = fitted(baselines=POOLED, fallback=False)
    model.save(tmp_path / "model")
    again, new = load_model(tmp_path / "model"), sensors(2, rows=20, seed=1)
    one, other = (new[new.sensor == number] for number in (0, 1))
    for name in ("MixedModel", "Boosting", "Shrunken", "ResidualGP"):
        by_name = choosing(model, **{name: 1.0})
        predicted, loaded = (
            of.adapt(one[:10]).predict(one[10:]) for of in (by_name, choosing(again, **{name: 1.0}))
        )
        np.testing.assert_array_equal(predicted, loaded)
        assert (by_name.adapt(other[:10]).predict(one[10:]) == predicted).all() == (name == "Boosting")


def test_a_process_of_all_tasks_is_saved_as_well(tmp_path):
    model = fitted(learner="MultiTaskGP(n_tasks=60)", baselines=("MeanPredictor",))
    assert model.chosen_ == "MultiTaskGP"
    model.save(tmp_path / "model")
    new = sensors(1, rows=20, seed=1)
    one, other = (of.adapt(new[:4]) for of in (model, load_model(tmp_path / "model")))
    np.testing.assert_array_equal(one.predict(new[4:]), other.predict(new[4:]))
    np.testing.assert_array_equal(one.predict_interval(new, 0.5), other.predict_interval(new, 0.5))


def test_a_model_can_be_saved_again_after_loading(folder, tmp_path):
    MetaRegressor.load(folder).save(tmp_path / "again")
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_folder_holds_no_rows_of_the_data_and_nothing_that_runs(folder, monkeypatch):
    assert {path.name for path in folder.iterdir()} == FILES
    assert "1000" not in (folder / "model.json").read_text()

    def refuse(*_, **__):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_model(folder)


def test_an_existing_folder_is_replaced_only_if_that_is_asked_for(model, folder, tmp_path):
    with pytest.raises(MetaLensError, match="exists already"):
        model.save(folder)
    model.save(folder, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(MetaLensError, match="is not replaced"):
        model.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_nothing_is_left_where_saving_fails(model, tmp_path, monkeypatch):
    monkeypatch.setattr("metalens.estimators.saving.json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.json").unlink(), "is no saved model, as it has no model.json"),
        (lambda f: (f / "model.json").write_text("{"), "is damaged"),
        (lambda f: (f / "model.json").write_text("[1]"), "is damaged"),
        (lambda f: (f / "weights.safetensors").unlink(), "is damaged"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"PK\x03\x04 no tensors"), "is damaged"),
        (lambda f: (f / "curve.csv").unlink(), "is damaged"),
        (lambda f: edit(f, format=99), "in format 99, and this version of MetaLens reads format 6"),
        (lambda f: edit(f, kind="Run"), "holds a Run"),
        (lambda f: edit(f, kind=["MetaRegressor"]), "model.json is damaged: kind missing or not as expected"),
        (lambda f: edit(f, reader={}), "is damaged"),
        (lambda f: edit(f, choices=[{"k_shot": 4, "weights": {"Oracle": 1.0}}]), "is damaged"),
        (lambda f: edit(f, settings={"speed": 3}), "is damaged"),
        (lambda f: edit(f, settings={"hidden": [9]}), "is damaged"),
        (lambda f: shorten(f), "is damaged"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_folders_are_refused_in_one_sentence(folder, damage, message):
    damage(folder)
    with pytest.raises(MetaLensError, match=message) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)


def edit(folder, **changes):
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**facts, **changes}))


def shorten(folder):
    """Take a tensor away."""
    tensors = load_file(folder / "weights.safetensors")
    tensors.pop(next(name for name in tensors if name.startswith("ANIL.1.")))
    save_file(tensors, folder / "weights.safetensors")


def test_a_model_of_another_class_is_refused(folder):
    with pytest.raises(MetaLensError, match="holds a MetaRegressor, and this is MetaClassifier"):
        MetaClassifier.load(folder)
