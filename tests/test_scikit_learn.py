"""scikit-learn's own checks of the estimators, and its tools around them: splitters, pipelines, clones."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import load_model

TINY = {"hidden": (16,), "baselines": (), "fallback": False}
SHARES = (0.34, 0.33, 0.33)


def six_groups(y):
    """The checks give inputs and targets alone, and a meta-learner needs tasks: six of random rows."""
    return np.random.default_rng(0).permutation(np.arange(len(np.asarray(y))) % 6)


class RegressorOfSixGroups(MetaRegressor):
    def fit(self, x, y=None):
        return super().fit(x, y, None if y is None else six_groups(y), splits=SHARES)

    def score(self, x, y):
        return super().score(x, y, six_groups(y))


class ClassifierOfSixGroups(MetaClassifier):
    def fit(self, x, y=None):
        return super().fit(x, y, None if y is None else six_groups(y), splits=SHARES)

    def score(self, x, y):
        return super().score(x, y, six_groups(y))


def expected_to_fail(estimator):
    return {
        "check_methods_subset_invariance": "Networks predict in single precision, whose rounding depends on "
        "the number of rows: differences of 2e-7, where 1e-7 are allowed.",
    }


@pytest.mark.filterwarnings("ignore:::metalens")
@parametrize_with_checks(
    [
        kind("JointModel", steps=30, outer_lr=0.03, **TINY)
        for kind in (RegressorOfSixGroups, ClassifierOfSixGroups)
    ],
    expected_failed_checks=expected_to_fail,
)
def test_scikit_learn_checks_the_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # notes on tables of noise
        check(estimator)


def sensors(n=12, rows=8):
    """Inputs, targets and groups: lines with a slope of their own."""
    rng = np.random.default_rng(0)
    groups = np.repeat([f"s{number}" for number in range(n)], rows)
    x = pd.DataFrame({"voltage": rng.normal(size=n * rows), "kind": rng.choice(["flat", "round"], n * rows)})
    y = pd.Series(np.repeat(rng.normal(size=n), rows) * x.voltage + (x.kind == "flat"), name="pressure")
    return x, y, groups


def regressor(**settings):
    return MetaRegressor("R2D2", **TINY | {"steps": 2} | settings)


def test_tags_say_what_the_estimators_are():
    assert is_regressor(MetaRegressor())
    assert is_classifier(MetaClassifier())
    for tags in (get_tags(MetaRegressor()), get_tags(MetaClassifier())):
        assert tags.target_tags.required
        assert not tags.input_tags.sparse
        assert not tags.input_tags.allow_nan


@pytest.mark.filterwarnings("ignore")
def test_inputs_targets_and_groups_are_the_same_as_one_table():
    x, y, groups = sensors()
    apart, new = regressor().fit(x, y, groups), x[:5]
    table = x.assign(pressure=y, groups=groups)
    whole = regressor().fit(table, task="groups", target="pressure")
    assert apart.feature_names_in_.tolist() == whole.feature_names_in_.tolist() == ["voltage", "kind"]
    assert apart.n_features_in_ == 2
    assert (apart.predict(new) == whole.predict(new)).all()
    assert (apart.predict(new) == apart.adapt().predict(new)).all()
    assert apart.score(x, y, groups) == whole.score(table)
    assert apart.evaluate(x, y, groups).equals(whole.evaluate(table))
    support = table.drop(columns="groups")[:8]
    assert (apart.adapt(x[:8], y[:8]).predict(new) == whole.adapt(support).predict(new)).all()


@pytest.mark.filterwarnings("ignore")
def test_arrays_have_columns_with_numbers_and_probabilities_of_classes():
    x, y, groups = sensors()
    x, y = np.c_[x.voltage, x.kind == "flat"], np.where(y > 0, "high", "low")
    model = MetaClassifier("R2D2(prior_mean=True)", steps=2, **TINY).fit(x, y, groups)
    assert model.classes_.tolist() == ["high", "low"]
    assert model.feature_names_in_.tolist() == ["x 0", "x 1"]
    chances = model.predict_proba(x)
    assert chances.shape == (96, 2)
    assert (model.predict(x) == model.classes_[chances.argmax(1)]).all()
    task = model.adapt(x[:8], y[:8])
    assert task.n_support == 8
    assert task.predict(x[8:10]).shape == (2,)


@pytest.mark.filterwarnings("ignore")
def test_without_groups_the_classes_of_a_new_task_are_new():
    x = np.random.default_rng(0).normal(size=(96, 2))
    model = MetaClassifier("ProtoNet", steps=2, **TINY).fit(x, np.repeat(np.arange(12), 8))
    assert not hasattr(model, "classes_")
    with pytest.raises(MetaLensError, match="classes of a new task are new"):
        model.predict(x)
    assert model.adapt(x[:4], [7, 7, 9, 9]).classes_.tolist() == [7, 9]


def by_hand(model, x, y, groups):
    """The scores of the folds that GroupKFold makes."""
    found = []
    for train, test in GroupKFold(3).split(x, y, groups):
        one = clone(model).fit(x.iloc[train], y.iloc[train], groups[train], splits=SHARES)
        found.append(one.score(x.iloc[test], y.iloc[test], groups[test]))
    return found


@pytest.mark.filterwarnings("ignore")
def test_cross_val_score_routes_groups():
    x, y, groups = sensors()
    with config_context(enable_metadata_routing=True):
        model = regressor().set_fit_request(groups=True, splits=True).set_score_request(groups=True)
        params = {"groups": groups, "splits": SHARES}
        found = cross_val_score(model, x, y, cv=GroupKFold(3), params=params, error_score="raise")
    assert found.tolist() == by_hand(regressor(), x, y, groups)


@pytest.mark.filterwarnings("ignore")
def test_cross_val_score_takes_groups_if_a_column_of_the_inputs_names_them():
    x, y, groups = sensors()
    whole = x.assign(groups=groups)
    params = {"task": "groups", "splits": SHARES}
    found = cross_val_score(
        regressor(), whole, y, groups=groups, cv=GroupKFold(3), params=params, error_score="raise"
    )
    assert found.tolist() == by_hand(regressor(), x, y, groups)


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_with_a_column_transformer_in_front():
    x, y, groups = sensors()
    whole = x.assign(groups=groups)
    columns = ColumnTransformer(
        [("scaled", StandardScaler(), ["voltage"])], remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    line, params = make_pipeline(columns, regressor()), {"metaregressor__task": "groups"}
    settings = {"groups": groups, "cv": GroupKFold(3), "params": params, "error_score": "raise"}
    assert np.isfinite(cross_val_score(line, whole, y, **settings)).all()
    line.fit(whole, y, **params)
    assert line[-1].feature_names_in_.tolist() == ["voltage", "kind"]
    assert (line.predict(whole[:4]) == line[-1].predict(columns.transform(whole[:4]))).all()


@pytest.mark.filterwarnings("ignore")
def test_pickles_and_clones(tmp_path):
    x, y, groups = sensors()
    again = pickle.loads(pickle.dumps(regressor(steps=3, seeds=2)))
    assert again.get_params() == regressor(steps=3, seeds=2).get_params()
    with pytest.raises(NotFittedError):
        again.predict(x)
    model = regressor().fit(x, y, groups)
    twin = pickle.loads(pickle.dumps(model))  # for processes of scikit-learn; a saved model has no pickle
    assert (twin.predict(x) == model.predict(x)).all()
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(model))
    model.save(tmp_path / "model")
    assert (load_model(tmp_path / "model").predict(x) == model.predict(x)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": None}, "groups must name the task of each row, or task"),
        ({"y": None}, "groups are for inputs and y apart"),
        ({"y": None, "groups": None, "data": np.zeros((4, 2))}, "requires y to be passed"),
        ({"target": "pressure"}, "Give y or target"),
        ({"task": "kind"}, "Give groups or task"),
        ({"data": "file.csv"}, "in a file, target names its column"),
        ({"groups": ["a", "b"]}, "inconsistent numbers of samples"),
        ({"groups": pd.Series(["a", "b"] * 48, name="kind")}, "The inputs have a column kind, as groups is"),
        ({"y": pd.Series(np.arange(96), name="voltage")}, "The inputs have a column voltage, as y is called"),
    ],
)  # fmt: skip
def test_what_is_given_twice_or_not_at_all_is_refused(given, message):
    x, y, groups = sensors()
    with pytest.raises(ValueError, match=message):
        regressor().fit(**{"data": x, "y": y, "groups": groups} | given)


@pytest.mark.filterwarnings("ignore")
def test_new_inputs_that_do_not_fit_are_refused():
    x, y, groups = sensors()
    model = regressor().fit(x[["voltage"]], y, groups)
    with pytest.raises(MetaLensError, match="X has 2 features, but it is expecting 1 features as input"):
        model.predict(np.zeros((3, 2)))
    with pytest.raises(MetaLensError, match="groups are for inputs and y apart"):
        model.score(x, groups=groups)
    with pytest.raises(MetaLensError, match="no column groups"):
        model.score(x, y)
    few = MetaClassifier("ProtoNet", steps=2, **TINY).fit(x[["voltage"]], np.repeat(np.arange(12), 8))
    with pytest.raises(MetaLensError, match="groups are for models that were fitted with some"):
        few.evaluate(x, y, groups)
