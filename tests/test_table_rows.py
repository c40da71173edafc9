"""Rows that cannot be used: refused, filled or left out, in training and after it alike."""

import numpy as np
import pandas as pd
import pytest

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import draws

QUICK = {"steps": 2, "hidden": [8], "k_shot": 4, "n_query": 4, "fallback": False}
ROLES = {"task": "task", "target": "y"}
BASELINES = {MetaRegressor: ["Ridge"], MetaClassifier: ["NearestCentroid"]}

pytestmark = pytest.mark.filterwarnings(
    "ignore:On .* held-out tasks", "ignore:On average", "ignore:100% of the molecules of held-out tasks"
)


def table(n_tasks=20, rows=12, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"task": np.repeat([f"t{n}" for n in range(n_tasks)], rows)})
    frame["x"] = rng.normal(size=len(frame))
    frame["kind"] = rng.choice(["red", "blue"], len(frame))
    slope = rng.normal(size=n_tasks).repeat(rows)
    return frame.assign(y=slope * frame.x + (frame.kind == "red") + 0.1 * rng.normal(size=len(frame)))


def with_gaps(frame, column, every=7):
    return frame.assign(**{column: frame[column].astype(object).where(frame.index % every != 3, None)})


def labeled(frame):
    return frame.assign(y=np.where(frame.y > frame.y.median(), "high", "low"))


def fitted(estimator, frame, **changes):
    model = estimator(**QUICK, baselines=BASELINES[estimator])
    return model.fit(frame, **ROLES, duplicates="allow", **changes)


@pytest.fixture(scope="module", params=[MetaRegressor, MetaClassifier])
def dropping(request):
    """A model that leaves out rows, the frame that it was trained on, and its kind."""
    frame = table() if request.param is MetaRegressor else labeled(table())
    with pytest.warns(UserWarning, match=r"of the 240 rows have an empty cell \(y 34\) and are left out"):
        return fitted(request.param, with_gaps(frame, "y"), missing="drop"), frame


@pytest.mark.parametrize("column", ["x", "kind", "y"])
def test_rows_are_left_out_of_every_step_with_their_number(dropping, column, tmp_path):
    model, frame = dropping
    new = frame[frame.task.isin(["t0", "t1", "t2"])]
    gaps = with_gaps(new.reset_index(drop=True), column)
    gaps.to_csv(tmp_path / "new.csv", index=False)
    for data in (gaps, tmp_path / "new.csv"):
        said = rf"5 of the 36 rows have an empty cell \({column} 5\) and are left out"
        with pytest.warns(UserWarning, match=said):
            scores = model.evaluate(data, k_shot=3)
        assert scores.value.notna().all()
        with pytest.warns(UserWarning, match=said):
            assert len(model.relations(data).names) == 3
    few = gaps[:12]
    with pytest.warns(UserWarning, match=rf"2 of the 12 rows have an empty cell \({column} 2\)"):
        adapted = model.adapt(few)
    assert adapted.n_support == 10
    complete = model.adapt(few.dropna())
    np.testing.assert_array_equal(adapted.predict(new[12:]), complete.predict(new[12:]))


@pytest.mark.parametrize("column", ["x", "kind"])
def test_rows_that_cannot_be_predicted_are_missing_in_their_place(dropping, column):
    model, frame = dropping
    adapted, new = model.adapt(frame[:12]), with_gaps(frame[12:36], column)
    with pytest.warns(UserWarning, match=rf"\({column} \d\) and are predicted as missing"):
        found = adapted.predict(new.drop(columns="y"))
    empty = new[column].isna().to_numpy()
    assert empty.any()
    np.testing.assert_array_equal(pd.isna(found), empty)
    np.testing.assert_array_equal(found[~empty], adapted.predict(new[~empty]))
    with pytest.warns(UserWarning, match="predicted as missing"):
        assert pd.isna(adapted.predict(new[empty])).all()
    if isinstance(model, MetaClassifier):
        with pytest.warns(UserWarning, match="predicted as missing"):
            chances = adapted.predict_proba(new)
        np.testing.assert_array_equal(np.isnan(chances), np.repeat(empty[:, None], 2, 1))


def test_rows_in_any_order_are_predicted_alike(dropping):
    model, frame = dropping
    adapted, new = model.adapt(frame[:12]), frame[12:40]
    order = np.random.default_rng(0).permutation(len(new))
    found = adapted.predict(new)
    np.testing.assert_array_equal(adapted.predict(new.iloc[order]), found[order])
    alone = [adapted.predict(new[row : row + 1])[0] for row in range(5)]
    if isinstance(model, MetaRegressor):
        np.testing.assert_allclose(alone, found[:5], rtol=1e-5)
    else:
        assert alone == found[:5].tolist()


@pytest.mark.parametrize("estimator", [MetaRegressor, MetaClassifier])
def test_sizes_are_those_of_the_rows_that_are_left(estimator):
    frame = table() if estimator is MetaRegressor else labeled(table())
    gaps = with_gaps(frame, "y", every=4)
    settings = QUICK | {"k_shot": None, "n_query": None}
    models = [estimator(**settings, baselines=BASELINES[estimator]) for _ in range(2)]
    with pytest.warns(UserWarning, match=r"\(y 60\) and are left out"):
        models[0].fit(gaps, **ROLES, missing="drop", duplicates="allow")
    models[1].fit(gaps.dropna(), **ROLES, duplicates="allow")
    assert models[0].k_shot_ == models[1].k_shot_
    pd.testing.assert_frame_equal(models[0].comparison_, models[1].comparison_)


@pytest.mark.parametrize("column", ["x", "kind", "y", "task"])
@pytest.mark.parametrize("estimator", [MetaRegressor, MetaClassifier])
def test_an_empty_cell_is_refused_with_file_row_and_column(estimator, column, tmp_path):
    frame = table() if estimator is MetaRegressor else labeled(table())
    with_gaps(frame, column).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(MetaLensError, match=rf"a\.csv: Row 4 of column {column} is empty, the first of 34; "):
        fitted(estimator, tmp_path / "a.csv")


def test_one_unreadable_molecule_is_named_or_left_out(tmp_path, monkeypatch):
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))
    frame = table().drop(columns=["x", "kind"])
    frame["smiles"] = ["C" * (1 + n % 5) + "O" * (n % 2) for n in frame.index]
    frame.loc[20, "smiles"] = "no molecule"
    frame.loc[30, "smiles"] = None
    frame.to_csv(tmp_path / "a.csv", index=False)
    filled = frame.fillna("CC")
    with pytest.raises(MetaLensError, match="The molecule 'no molecule' in row 21 of column smiles has"):
        fitted(MetaRegressor, filled, smiles="smiles")
    with pytest.raises(MetaLensError, match=r"a\.csv: Row 31 of column smiles is empty"):
        fitted(MetaRegressor, tmp_path / "a.csv", smiles="smiles")
    with pytest.warns(UserWarning, match=r"2 of the 240 rows have an empty cell or no readable molecule"):
        model = fitted(MetaRegressor, tmp_path / "a.csv", smiles="smiles", missing="drop")
    adapted = model.adapt(frame[:12])
    with pytest.warns(UserWarning, match=r"\(smiles 2\) and are predicted as missing"):
        found = adapted.predict(frame[15:35])
    assert np.flatnonzero(np.isnan(found)).tolist() == [5, 15]


def test_a_rare_class_is_warned_of_and_scored_by_itself():
    frame = table(rows=30)
    rare = frame.y >= frame.groupby("task").y.transform(lambda y: y.quantile(0.9))
    frame["y"] = np.where(rare, "active", "inactive")
    model = MetaClassifier(**QUICK | {"n_query": 20}, baselines=["MeanPredictor"])
    with pytest.warns(UserWarning, match="On average 90% of the rows of a task have one value of y"):
        model.fit(frame, **ROLES)
    found = model.comparison_.groupby(["model", "metric"]).value.mean()
    assert found["MeanPredictor", "accuracy"] > 0.8
    assert found["MeanPredictor", "balanced_accuracy"] == pytest.approx(0.5)
    assert found["MeanPredictor", "average_precision"] < 0.3


def test_a_class_with_one_row_is_not_always_in_the_support():
    frame = table(rows=12)
    frame["y"] = np.where(frame.index % 12 == 0, "active", "inactive")
    model = MetaClassifier(**QUICK | {"n_query": 8}, baselines=["MeanPredictor"])
    with pytest.warns(UserWarning, match="In 14 of the 14 tasks .* no two values of y have two"):
        model.fit(frame, **ROLES)
    found = model.comparison_.query("model == 'MeanPredictor' and metric == 'accuracy'").value
    assert found.mean() < 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"target": ["a", "b"]}, "target must be the name of one column, got a list of 2; predict one at a"),
        (
            {"task": ["hospital", "patient"]},
            "task must be .* got a list of 2; join the columns",
        ),
        ({"group": ("a", "b")}, "group must be .* got a tuple of 2"),
        ({"smiles": np.array(["a"])}, "smiles must be .* got a ndarray of 1"),
        ({"task": 3}, "task must be .* got the int 3; name columns by text"),
    ],
)
@pytest.mark.parametrize("estimator", [MetaRegressor, MetaClassifier])
def test_lists_of_columns_are_refused_in_one_sentence(estimator, columns, words):
    with pytest.raises(MetaLensError, match=words):
        estimator(**QUICK).fit(table(), **(ROLES | columns))


def test_levels_of_the_index_are_columns_if_they_are_named():
    frame = table()
    levels = frame.assign(id=range(len(frame))).set_index(["task", "id"])
    model, expected = (fitted(MetaRegressor, data) for data in (levels, frame))
    assert model.feature_names_in_.tolist() == ["x", "kind"]
    pd.testing.assert_frame_equal(model.comparison_, expected.comparison_)
    with pytest.raises(MetaLensError, match="The table has no column task"):
        fitted(MetaRegressor, frame.drop(columns="task"))


@pytest.mark.parametrize("estimator", [MetaRegressor, MetaClassifier])
def test_models_of_scikit_learn_predict_without_support_rows(estimator, monkeypatch):
    monkeypatch.setattr(draws, "MIN_DRAWS", 3)
    monkeypatch.setattr(draws, "SHOTS", (0,))
    frame = table() if estimator is MetaRegressor else labeled(table())
    model = estimator(steps=2, hidden=[8], baselines=["RandomForest", "KNN"])
    model.fit(frame, **ROLES, duplicates="allow")
    assert model.comparison_.model.nunique() >= 3


def test_a_column_that_is_no_number_is_refused_before_it_is_taken_for_a_time():
    frame = table().astype({"x": object})
    frame["x"] = [f"{n},{n:03}" for n in range(1, 241)]
    with pytest.raises(MetaLensError, match=r"Row \d+ of column x must be a number.*thousands"):
        fitted(MetaRegressor, frame)
