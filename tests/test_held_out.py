"""Predictions for held-out rows: all rows together, residuals, and reliability of probabilities."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import r2_score, root_mean_squared_error

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.cli import main
from metalens.estimators import draws, load_model
from metalens.estimators.report import read_model_folder, write_model_report
from metalens.reports import prediction_figures
from metalens.reports.prediction_figures import (
    predicted_against_true,
    reliability,
    reliability_rows,
    residuals,
    score_by_support_rows,
)

ROLES = {"task": "pupil", "target": "score"}


@pytest.fixture(scope="module", autouse=True)
def _little_to_do():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 3)
        patch.setattr(draws, "SHOTS", ())
        yield


def pupils(n=30, rows=10):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"pupil": [f"p{i}" for i in np.repeat(np.arange(n), rows)]})
    frame["size"] = rng.normal(size=n).repeat(rows)
    level = 100 * rng.normal(size=n).repeat(rows)
    return frame.assign(effort=rng.normal(size=len(frame))).assign(
        score=lambda f: level + 5 * f.effort + rng.normal(size=len(f))
    )


def fitted(kind, frame, baselines=("MeanPredictor", "Ridge"), **roles):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(steps=2, hidden=(4,), baselines=baselines)
        return model.fit(frame, **{**ROLES, **roles})


@pytest.fixture(scope="module")
def model():
    return fitted(MetaRegressor, pupils())


def test_predictions_are_those_of_what_adapts_for_all_rows_of_the_held_out_tasks(model):
    rows, frame = model.predictions_, pupils()
    assert set(rows.task) == set(model.comparison_.task)
    for task, of_task in rows.groupby("task"):
        assert set(of_task.true.round(2)) <= set(frame.score[frame.pupil == task].round(2))
    errors = (rows.true - rows.predicted) ** 2
    expected = model.comparison_[
        (model.comparison_.model == model.chosen_) & (model.comparison_.metric == "rmse")
    ]
    np.testing.assert_allclose(errors.groupby(rows.task, sort=False).mean() ** 0.5, expected.value)


def test_all_rows_together_are_scored_as_by_scikit_learn(model):
    rows = model.predictions_
    pooled = model.pooled_.set_index(["model", "metric"]).value
    assert list(model.pooled_.model.unique()) == [*model.comparison_.model.unique()]
    assert pooled[model.chosen_, "r2"] == pytest.approx(r2_score(rows.true, rows.predicted))
    assert pooled[model.chosen_, "rmse"] == pytest.approx(root_mean_squared_error(rows.true, rows.predicted))
    means = model.comparison_.groupby(["model", "metric"]).value.mean()
    assert pooled["MeanPredictor", "r2"] > 0.9  # it tells pupils apart
    assert means["MeanPredictor", "r2"] < 0.1  # and explains nothing within one


def test_scores_of_all_rows_are_saved_and_predictions_are_not(model, tmp_path):
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    pd.testing.assert_frame_equal(again.pooled_, model.pooled_)
    assert not hasattr(again, "predictions_")
    assert not (tmp_path / "model" / "predictions.csv").exists()


def test_classes_have_no_scores_of_all_rows_and_probabilities_of_the_second(tmp_path):
    frame = pupils().assign(score=lambda f: np.where(f.effort > 0, "yes", "no"))
    model = fitted(MetaClassifier, frame, ("MeanPredictor",))
    assert model.pooled_.empty
    assert model.probability_of_ == "yes"
    rows = model.predictions_
    assert set(rows.true) == {0.0, 1.0}
    assert rows.predicted.between(0, 1).all()
    task = rows.task.iloc[0]
    accuracy = model.comparison_[model.comparison_.metric == "accuracy"].set_index(["model", "task"]).value
    right = (rows.predicted > 0.5) == (rows.true == 1)
    assert right[rows.task == task].mean() == pytest.approx(accuracy[model.chosen_, task])
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").pooled_.empty


def test_of_several_classes_it_is_the_most_probable_one():
    frame = pupils().assign(
        score=lambda f: pd.cut(f.effort, [-9, -0.5, 0.5, 9], labels=["a", "b", "c"]).astype(str)
    )
    model = fitted(MetaClassifier, frame, ("MeanPredictor",))
    assert model.probability_of_ == "the most probable class"
    assert model.predictions_.predicted.min() >= 1 / 3 - 1e-9
    accuracy = model.comparison_[
        (model.comparison_.metric == "accuracy") & (model.comparison_.model == model.chosen_)
    ]
    found = model.predictions_.groupby("task", sort=False).true.mean()
    np.testing.assert_allclose(found[accuracy.task], accuracy.value)


def test_bins_of_probabilities_are_those_of_scikit_learn_with_all_rows():
    rng = np.random.default_rng(0)
    chances = np.concatenate([rng.beta(0.4, 0.7, 500), [0.0, 0.1, 0.3, 1.0, np.nan]])  # also edges of bins
    rows = pd.DataFrame({"predicted": chances, "true": rng.random(505) < np.nan_to_num(chances)})
    found = reliability_rows(rows.assign(true=rows.true.astype(float)))
    observed, mean = calibration_curve(rows.true[:504], chances[:504], n_bins=10)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.probability, mean)
    assert found.n.sum() == 504
    in_bins = pd.cut(rows.predicted[:504], np.linspace(0, 1, 11), include_lowest=True)
    assert found.n.tolist() == in_bins.value_counts(sort=False).tolist()
    assert (found.observed * found.n).sum() == pytest.approx(rows.true[:504].sum())


def test_figures_show_all_rows_that_are_finite(monkeypatch):
    rows = pd.DataFrame(
        {"task": list("aabbb"), "true": [1.0, 2, 3, 4, 5], "predicted": [1.5, 2.0, np.nan, 4, 6]}
    )
    dots, line = predicted_against_true(rows).axes[0].lines
    assert dots.get_xydata().tolist() == [[1, 1.5], [2, 2], [4, 4], [5, 6]]
    assert line.get_xydata().tolist() == [[1, 1], [5, 5]]
    axes = residuals(rows).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "a"]  # medians -0.5 and -0.25
    monkeypatch.setattr(prediction_figures, "MAX_TASKS", 1)
    assert len(residuals(rows).axes[0].get_xticks()) == 1
    chances = rows.assign(predicted=[0.1, 0.1, 0.7, np.nan, 0.9], true=[0.0, 1, 1, 1, 1])
    curve, bars = reliability(chances, "active").axes
    assert curve.lines[1].get_xydata().round(3).tolist() == [[0.1, 0.5], [0.7, 1], [0.9, 1]]
    assert [text.get_text() for text in bars.texts] == ["2", "1", "1"]
    assert bars.get_xlabel() == "probability of active"


def test_scores_and_widths_are_drawn_by_the_number_of_support_rows():
    rows = pd.DataFrame({"k_shot": [0, 5, 20], "score": [0.25, 0.5, 0.75], "half_width": [np.nan, 2.0, 1.0]})
    score, width = score_by_support_rows(rows, "r2").axes
    assert score.lines[0].get_ydata().tolist() == [0.25, 0.5, 0.75]
    assert [label.get_text() for label in score.get_xticklabels()] == ["0", "5", "20"]
    np.testing.assert_array_equal(width.lines[0].get_ydata(), rows.half_width)
    (alone,) = score_by_support_rows(rows.assign(half_width=np.nan), "accuracy").axes
    assert alone.get_ylabel() == "mean accuracy"


@pytest.mark.parametrize("kind", ["regression", pytest.param("classification", marks=pytest.mark.slow)])
def test_the_report_shows_them(kind, tmp_path, monkeypatch):
    frame = pupils()
    if kind == "classification":
        frame["score"] = np.where(frame.effort > 0, "yes", "no")
    frame.to_csv(tmp_path / "pupils.csv", index=False)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = "train --data pupils.csv --task pupil --target score --steps 2 --baselines MeanPredictor"
        main(words.split())
    folder = tmp_path / "model"
    page, model = (folder / "report.html").read_text(encoding="utf-8"), read_model_folder(folder)
    drawn = {path.stem for path in (folder / "figures").glob("*.svg")}
    if kind == "classification":
        assert "reliability" in drawn
        assert not drawn & {"predicted", "residuals"}
        assert "How often yes was true" in page
        assert "All rows together" not in page
    else:
        assert {"predicted", "residuals"} <= drawn
        assert f"all {len(model.predictions)} rows" in page
        value = model.pooled.value[0]
        assert f'<td class="text">R2D2</td><td>{value:#.3g}</td>'.replace("-", "−") in page
    assert "importance" in drawn
    assert "<h2>Model card</h2>" in page
    assert "<h3>Limits</h3>" in page
    assert "Numbers, the column <code>score</code>" in page or kind == "classification"
    assert "Not shown, as they have one value in all queries of a task: size." in page
    assert set(model.importance.task) == set(model.comparison.task)
    facts = json.loads((folder / "training.json").read_text())
    assert facts["probability_of"] == ("yes" if kind == "classification" else None)
    (folder / "predictions.csv").write_text("task,true\na,1\n")
    with pytest.raises(MetaLensError, match=r"predictions\.csv is missing or damaged"):
        write_model_report(folder)
