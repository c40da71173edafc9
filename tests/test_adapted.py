"""Adapted models: further rows, saving, loading, and the importance of inputs."""

import json
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import AdaptedClassifier, AdaptedRegressor, load_model
from metalens.estimators.importance import permutation_effects
from metalens.reports.prediction_figures import importance_rows, input_importance
from tests.choosing import choosing

pytestmark = pytest.mark.usefixtures("few_draws")
SHOTS = (0, 3)  # for `few_draws`

ROLES = {"task": "pupil", "target": "score"}


def pupils(n=40, rows=12, seed=0):
    """A score of effort, not of luck, with a level and a kind for each pupil."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"pupil": [f"p{i}" for i in np.repeat(np.arange(n), rows)]})
    frame["effort"], frame["luck"] = rng.normal(size=(2, len(frame)))
    frame["color"] = rng.choice(["red", "green", "blue"], len(frame))
    frame["size"] = rng.normal(size=n).repeat(rows)
    level = 10 * rng.normal(size=n).repeat(rows)
    frame["score"] = 100 + level + 5 * frame.effort + 3 * (frame.color == "red")
    return frame.assign(grade=np.where(frame.score - level > 101, "good", "poor"))


def fitted(kind, learner, target, baselines, **roles):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(learner, steps=3, hidden=(8,), k_shot=6, n_query=6, baselines=baselines)
        exclude = [{"score": "grade", "grade": "score"}[target]]
        return model.fit(pupils(), task="pupil", target=target, exclude=exclude, **roles)


@pytest.fixture(scope="module")
def regressor():
    return fitted(MetaRegressor, "R2D2", "score", ("Ridge", "MixedModel", "GaussianProcess"))


@pytest.fixture(scope="module")
def classifier():
    return fitted(MetaClassifier, None, "grade", ("LogisticRegression", "MeanPredictor"))


@pytest.fixture(scope="module")
def kinds():
    """A classifier of new classes, and rows of three of them."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": np.repeat([f"kind {i}" for i in range(15)], 10)})
    frame["a"], frame["b"] = rng.normal(size=(2, 150)) + 3 * rng.normal(size=(2, 15)).repeat(10, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaClassifier(steps=3, hidden=(8,), baselines=("NearestCentroid",)).fit(frame, target="kind")
    return model, frame[:30].sample(frac=1, random_state=0, ignore_index=True)


def new_rows(seed=1):
    return pupils(1, 40, seed)


@pytest.mark.parametrize("parts", [[4, 8, 20], [0, 20], [20, 21]])
@pytest.mark.parametrize("name", ["R2D2", "Ridge", "MixedModel", "GaussianProcess"])
def test_further_rows_are_the_same_as_all_at_once(regressor, name, parts):
    model, new = choosing(regressor, **{name: 1.0}), new_rows()
    parts = parts if name in ("R2D2", "MixedModel") else [part for part in parts if part]  # they need rows
    adapted = model.adapt(new[: parts[0]] if parts[0] else None)
    before = adapted.predict(new[30:])
    for start, end in pairwise(parts):
        adapted, earlier = adapted.update(new[start:end]), adapted
        assert earlier.n_support == start
    at_once = model.adapt(new[: parts[-1]])
    assert (adapted.n_support, adapted.model, adapted.task) == (parts[-1], name, "p0")
    np.testing.assert_array_equal(adapted.predict(new[30:]), at_once.predict(new[30:]))
    np.testing.assert_array_equal(
        adapted.predict_interval(new[30:], 0.5), at_once.predict_interval(new[30:], 0.5)
    )
    assert len(parts) == 1 or not np.array_equal(adapted.predict(new[30:]), before)


def test_what_adapts_changes_with_the_number_of_rows(regressor):
    model = choosing(regressor, Ridge=1.0)
    model._choices = model._choices | {0: model._choices[0]._replace(model="R2D2", weights={"R2D2": 1.0})}
    adapted = model.adapt()
    assert adapted.model == "R2D2"
    assert adapted.update(new_rows()[:8]).model == "Ridge"


def test_further_rows_of_shared_classes(classifier):
    new = new_rows()
    adapted = classifier.adapt().update(new[:9]).update(new[9:15])
    at_once = classifier.adapt(new[:15])
    assert adapted.classes_.tolist() == at_once.classes_.tolist() == ["good", "poor"]
    np.testing.assert_array_equal(adapted.predict_proba(new[20:]), at_once.predict_proba(new[20:]))


def test_further_rows_may_bring_new_classes(kinds):
    model, rows = kinds
    two = rows[rows.kind != "kind 1"][:8]
    adapted = model.adapt(two)
    assert adapted.classes_.tolist() == ["kind 0", "kind 2"]
    third = rows[rows.kind == "kind 1"][:3]
    adapted, at_once = adapted.update(third), model.adapt(pd.concat([two, third]))
    assert adapted.classes_.tolist() == ["kind 0", "kind 1", "kind 2"]
    np.testing.assert_array_equal(adapted.predict_proba(rows), at_once.predict_proba(rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.assign(pupil="p7"),
            "The rows are of task p7, and the model is that of p0; adapt another",
        ),
        (lambda f: f.assign(score=None), "Row 1 of column score is empty"),
        (lambda f: f.drop(columns="luck"), "no column luck"),
    ],
)
def test_rows_that_cannot_be_added_are_refused(regressor, change, message):
    adapted = regressor.adapt(new_rows()[:6])
    with pytest.raises(MetaLensError, match=message):
        adapted.update(change(new_rows()[6:9]))


def test_rows_without_the_column_of_tasks_are_of_the_task(regressor):
    few = new_rows()[:6].drop(columns="pupil")
    adapted = regressor.adapt(few)
    assert adapted.task is None
    assert adapted.update(new_rows()[6:9]).task == "p0"
    assert regressor.adapt(new_rows()[:6]).update(few).task == "p0"


@pytest.mark.parametrize("n", [0, 6])
def test_a_model_of_numbers_is_the_same_after_loading(regressor, n, tmp_path):
    new = new_rows()
    adapted = regressor.adapt(new[:n] if n else None)
    adapted.save(tmp_path / "pupil")
    again = AdaptedRegressor.load(tmp_path / "pupil")
    assert (again.model, again.n_support, again.task) == (adapted.model, n, "p0" if n else None)
    np.testing.assert_array_equal(again.predict(new[30:]), adapted.predict(new[30:]))
    np.testing.assert_array_equal(again.predict_interval(new, 0.5), adapted.predict_interval(new, 0.5))
    one, other = (of.update(new[6:12]).predict(new[30:]) for of in (again, adapted))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(MetaLensError, match="exists already"):
        adapted.save(tmp_path / "pupil")
    adapted.save(tmp_path / "pupil", overwrite=True)


def test_models_of_classes_are_the_same_after_loading(classifier, kinds, tmp_path):
    shared, rows = classifier.adapt(new_rows()[:9]), kinds[1]
    with_new = kinds[0].adapt(rows[:9])
    for name, adapted, new in (("shared", shared, new_rows()), ("new", with_new, rows)):
        adapted.save(tmp_path / name)
        again = AdaptedClassifier.load(tmp_path / name)
        assert again.classes_.tolist() == adapted.classes_.tolist()
        assert again.predict(new).tolist() == adapted.predict(new).tolist()
        np.testing.assert_array_equal(again.predict_proba(new), adapted.predict_proba(new))
        one, other = (of.update(new[9:20]).predict_proba(new) for of in (again, adapted))
        np.testing.assert_array_equal(one, other)


def test_models_of_images_take_further_ones_and_are_saved(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(9):
        folder = tmp_path / "images" / f"c{number}"
        folder.mkdir(parents=True)
        for image in range(6):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{image}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaClassifier(steps=1, k_shot=2, n_query=2, n_way=2, baselines=()).fit(
            tmp_path / "images", image_size=16, splits=(0.4, 0.3, 0.3)
        )
    adapted = model.adapt(tmp_path / "images")
    adapted.save(tmp_path / "model")
    again = AdaptedClassifier.load(tmp_path / "model").update(tmp_path / "images")
    assert again.n_support == 2 * adapted.n_support == 108
    chances = adapted.update(tmp_path / "images").predict_proba(tmp_path / "images")
    np.testing.assert_array_equal(again.predict_proba(tmp_path / "images"), chances)
    with pytest.raises(MetaLensError, match="Images have no columns"):
        again.permutation_importance(tmp_path / "images")
    with pytest.raises(MetaLensError, match="Images have no columns"):
        model.permutation_importance(tmp_path / "images")


def damage(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "support.safetensors").unlink(), "pupil is damaged"),
        (lambda f: (f / "support.safetensors").write_bytes(b"0" * 99), "pupil is damaged"),
        (lambda f: damage(f, "model.json", task=3), "its task or its classes are not as expected"),
        (
            lambda f: damage(f, "model.json", kind="AdaptedClassifier"),
            "holds a AdaptedClassifier, and this is",
        ),
        (lambda f: damage(f, "model.json", format=1), "is in format 1"),
        (lambda f: (f / "estimator" / "model.json").unlink(), "estimator is no saved model"),
    ],
)
def test_damaged_models_are_refused(regressor, change, message, tmp_path):
    regressor.adapt(new_rows()[:6]).save(tmp_path / "pupil")
    change(tmp_path / "pupil")
    with pytest.raises(MetaLensError, match=message):
        AdaptedRegressor.load(tmp_path / "pupil")


def test_an_adapted_model_is_no_estimator_and_is_saved_only_as_it_is(regressor, tmp_path):
    model = choosing(regressor, Ridge=1.0)
    adapted = model.adapt(new_rows()[:6])
    adapted.save(tmp_path / "pupil")
    with pytest.raises(MetaLensError, match=r"holds a AdaptedRegressor; load it by AdaptedRegressor\.load"):
        load_model(tmp_path / "pupil")
    model.chosen_ = "R2D2"
    with pytest.raises(MetaLensError, match="changed since Ridge adapted; adapt and save another"):
        adapted.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_effects_are_those_of_scikit_learn_on_average():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = x @ [2.0, 1.0, 0.0] + rng.normal(size=60)
    line = LinearRegression().fit(x, y)
    expected = permutation_importance(line, x, y, n_repeats=400, random_state=0)
    effects = permutation_effects(
        lambda z: torch.from_numpy(line.predict(z.numpy())),
        lambda predicted: r2_score(y, predicted.numpy()),
        torch.from_numpy(x), {"a": [0], "b": [1], "c": [2]}, 400, rng,
    )  # fmt: skip
    for place, name in enumerate("abc"):
        error = np.hypot(effects[name].std(), expected.importances_std[place]) / 400**0.5
        assert abs(effects[name].mean() - expected.importances_mean[place]) < 4 * error
        assert effects[name].std() == pytest.approx(expected.importances_std[place], rel=0.25)


def test_the_effect_of_a_column_is_that_of_all_its_inputs(regressor):
    adapted, new = choosing(regressor, MixedModel=1.0).adapt(new_rows()[:10]), new_rows()[10:]
    found = adapted.permutation_importance(new, n_repeats=50).set_index("input")
    assert found.index.tolist() == ["effort", "luck", "color", "size"]
    assert found.value["effort"] > found.value["color"] > 3 * abs(found.value["luck"])  # of one-hot inputs
    assert np.isnan(found.value["size"])  # one value in all rows
    variance = pd.concat([new_rows().score[:10], new.score]).var(ddof=0)
    predicted = adapted.predict(new)
    rng = np.random.default_rng([0, 0])
    falls = []
    for order in [rng.permutation(len(new)) for _ in range(50)]:
        other = adapted.predict(new.assign(color=new.color.to_numpy()[order]))
        errors = (other - new.score) ** 2 - (predicted - new.score) ** 2
        falls.append(errors.mean() / variance)
    assert found.value["color"] == pytest.approx(np.mean(falls), rel=1e-4)
    assert found.deviation["color"] == pytest.approx(np.std(falls), rel=1e-4)


@pytest.mark.parametrize("models", [None, ["R2D2", "MixedModel"]])
def test_effects_are_found_for_each_model_and_task(regressor, models):
    new = pupils(6, 14, seed=3)
    model = choosing(regressor, Ridge=1.0)
    rows = model.permutation_importance(new, models=models)
    assert list(rows.model.unique()) == (models or ["Ridge"])
    assert sorted(rows.task.unique()) == [f"p{i}" for i in range(6)]
    assert rows.input.unique().tolist() == ["effort", "luck", "color", "size"]
    assert len(rows) == len(models or [1]) * 6 * 4
    pd.testing.assert_frame_equal(rows, model.permutation_importance(new, models=models))
    if models:
        alone = model.permutation_importance(new, models=["MixedModel"])
        pd.testing.assert_frame_equal(alone, rows[rows.model == "MixedModel"].reset_index(drop=True))
        means = alone.groupby("input").value.mean()
        assert means["effort"] > 0.5
        assert means["effort"] > means["color"] > abs(means["luck"])
    with pytest.raises(MetaLensError, match="There is no model Oracle; choose from R2D2, Ridge"):
        model.permutation_importance(new, models=["Oracle"])


def test_classes_have_effects_by_the_score_that_decides(classifier):
    new = new_rows()
    found = choosing(classifier, LogisticRegression=1.0).adapt(new[:20]).permutation_importance(new[20:])
    assert found.set_index("input").value["effort"] > 0.1
    rows = classifier.permutation_importance(pupils(6, 14, seed=3))
    assert len(rows) == 6 * 4


def test_a_task_without_the_score_has_no_effects(regressor):
    adapted = regressor.adapt()
    with pytest.raises(MetaLensError, match="These 2 rows have no r2; give more"):
        adapted.permutation_importance(new_rows()[:2])


def test_inputs_are_drawn_by_their_means_over_tasks():
    table = pd.DataFrame({"task": list("abcabcabc"), "input": np.repeat(["x", "y", "z"], 3)})
    table["value"] = [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, np.nan, np.nan, np.nan]
    rows = importance_rows(table)
    assert rows.input.tolist() == ["y", "x"]
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    np.testing.assert_allclose(
        rows[["mean", "low", "high"]].iloc[1], [0.2, 0.2 - half, 0.2 + half], rtol=1e-5
    )
    axes = input_importance(table, "r2").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["y", "x"]
    assert axes.get_xlabel() == "change of r2 for the worse if the input is permuted"
    in_percent = input_importance(table, "accuracy").axes[0].xaxis
    assert in_percent.get_label_text() == "change of accuracy in % for the worse if the input is permuted"
    assert in_percent.get_major_formatter()(0.25) == "25"
