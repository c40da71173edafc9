"""Few tasks: each is held out once, in folds, and what adapts was trained on all."""

import warnings
from copy import copy

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import MetaClassifier, MetaRegressor, TableTasks
from metalens.cli import main
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.estimators import cross_fitting, draws, load_model, training
from metalens.estimators.choice import choose
from metalens.estimators.compared import ComparedModels
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.cross_fitting import MAX_TASKS, N_FOLDS, divide_table

ROLES = {"task": "pupil", "target": "score"}
QUICK = {"hidden": (8,), "steps": 20, "outer_lr": 0.01, "k_shot": 5, "n_query": 4}
FEW = ("MixedModel", "JointModel", "Ridge")


@pytest.fixture(scope="module", autouse=True)
def _folds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_fitting, "MAX_TASKS", MAX_TASKS)
        patch.setattr(draws, "SHOTS", (0, 3))
        patch.setattr(draws, "MIN_DRAWS", 12)
        patch.setattr(training, "EVERY", 5)
        yield


def pupils(n=12, rows=12, seed=0):
    """A common line, a level for each pupil (deviation 10), and noise (deviation 2)."""
    rng = np.random.default_rng(seed)
    level, effort = rng.normal(0, 10, n).repeat(rows), rng.normal(size=n * rows)
    score = 100 + 5 * effort + level + rng.normal(0, 2, n * rows)
    return pd.DataFrame({"pupil": np.arange(n).repeat(rows), "effort": effort, "score": score})


def fitted(frame, baselines=FEW, fit=None, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back
        model = MetaRegressor("R2D2", baselines=baselines, **{**QUICK, **settings})
        return model.fit(frame, **ROLES, **(fit or {}))


@pytest.fixture(scope="module")
def model():
    return fitted(pupils())


def parts_of(frame, **division):
    settings = {"k_shot": 5, "n_query": 4, "seed": 0, "classes": False, "may_fold": True}
    division = {"splits": (0.7, 0.15, 0.15)} | division
    return divide_table(Columns(**ROLES), frame, Division(**division), **settings)


@pytest.mark.parametrize("n", [10, 12, MAX_TASKS - 1])
def test_every_task_is_held_out_once_and_decides_once_on_weights(n):
    reader, tasks, folds = parts_of(pupils(n))
    names = {str(number) for number in range(n)}
    assert set(tasks) == {"train"}
    assert set(tasks["train"].task_names) == names
    assert len(folds) == N_FOLDS
    for held_out in ([fold.held_out for fold in folds], [fold.tasks.val for fold in folds]):
        assert sorted(name for tasks in held_out for name in tasks.task_names) == sorted(names)
    for fold in folds:
        of_fold = [fold.held_out, fold.tasks.val, fold.tasks.train]
        of_fold = [set(tasks.task_names) for tasks in of_fold]
        assert set.union(*of_fold) == names
        assert sum(map(len, of_fold)) == n
        assert set(fold.tasks.known.task_names) == names - of_fold[0]
        scores = pupils(n).query("pupil not in @held", local_dict={"held": {int(one) for one in of_fold[0]}})
        assert fold.reader.mean == pytest.approx(scores.score.mean())
        torch.testing.assert_close(fold.tasks.train.inputs, fold.held_out.inputs)  # of one encoding
    assert reader.mean == pytest.approx(pupils(n).score.mean())


@pytest.mark.parametrize(
    ("n", "division"),
    [(9, {}), (MAX_TASKS, {}), (12, {"splits": (0.6, 0.2, 0.2)}), (12, {"families": "family"})],
)
def test_other_tables_are_divided_into_splits(n, division):
    frame = pupils(n)
    frame["family"] = frame.pupil.map("family {}".format)
    _, tasks, folds = parts_of(frame, **division)
    assert set(tasks) == {"train", "val", "test"}
    assert folds == []


@pytest.mark.parametrize("n", [MAX_TASKS - 1, MAX_TASKS, 70])
def test_intervals_of_90_percent_have_tasks_enough_with_and_without_folds(n):
    _, tasks, folds = parts_of(pupils(n, rows=10))
    n_held_out = sum(len(fold.held_out.task_names) for fold in folds) or len(tasks["test"].task_names)
    residuals = [np.array([1.0])] * n_held_out
    assert conformal_radius(residuals, coverage=0.9) == 1


def test_tasks_that_are_too_small_do_not_count():
    frame = pupils(12)
    frame = frame[(frame.pupil < 9) | (frame.groupby("pupil").cumcount() < 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those left out
        assert parts_of(frame).folds == []


def test_another_seed_is_another_division():
    one, other = (parts_of(pupils(), split_seed=seed).folds for seed in (None, 1))
    assert [f.held_out.task_names for f in one] != [f.held_out.task_names for f in other]


@pytest.mark.parametrize("fit", [{"time_limit": 1e6}, {"split_seed": 1, "splits": (0.5, 0.2, 0.3)}])
def test_a_limit_and_given_splits_are_kept(fit):
    model = fitted(pupils(), baselines=("Ridge",), steps=2, fit=fit)
    assert model.n_folds_ == 0
    assert model._choices[5].n_tasks < 12


def test_all_tasks_decide_and_calibrate(model):
    assert model.n_folds_ == N_FOLDS
    names = {str(number) for number in range(12)}
    assert set(model.comparison_.task) == set(model.predictions_.task) == names
    assert model.comparison_.model.iloc[0] == "R2D2"
    assert sorted(model.weights_) == [0, 3, 5]
    assert [choice.n_tasks for choice in model._choices.values()] == [12] * 3
    assert all(len(choice.residuals) == 12 for choice in model._choices.values())
    assert set(model.curve_.fold) == set(range(N_FOLDS))
    new = pupils(1, seed=1)
    widths = [np.ptp(model.adapt(new[:k] if k else None).predict_interval(new), axis=1)[0] for k in (0, 5)]
    assert widths[1] < widths[0]


def folds_of(frame, monkeypatch, **settings):
    """Return the held-out parts of a fit."""
    found = []
    compare = ComparedModels._compare
    monkeypatch.setattr(
        ComparedModels,
        "_compare",
        lambda self, parts, limit: found.append(parts) or compare(self, parts, limit),
    )
    model = fitted(frame, **settings)
    return model, found[0]


@pytest.mark.slow
def test_a_task_is_predicted_by_models_that_have_not_seen_it(monkeypatch):
    frame = pupils()
    changed = frame.assign(score=frame.score.where(frame.pupil != 3, frame.effort**2 - 1000 * frame.effort))
    (one, before), (other, after) = (folds_of(f, monkeypatch, seeds=2) for f in (frame, changed))
    same = []
    for part, again in zip(before, after, strict=True):
        assert part.tasks.task_names == again.tasks.task_names
        for name in ("R2D2", "MixedModel", "JointModel"):
            pairs = zip(part.estimator._trained[name], again.estimator._trained[name], strict=True)
            same += [
                all(
                    torch.equal(a, b)
                    for a, b in zip(x.state_dict().values(), y.state_dict().values(), strict=True)
                )
                == ("3" in part.tasks.task_names)
                for x, y in pairs
            ]
    assert len(same) == N_FOLDS * 5  # of two seeds, but for the mixed model
    assert all(same)
    assert one.reader_ != other.reader_  # what adapts has seen it


@pytest.mark.slow
def test_folds_are_trained_together_as_each_alone(monkeypatch):  # each ends by its own patience
    frame, how = pupils(10), {"steps": 60, "patience": 2}
    _, together = folds_of(frame, monkeypatch, **how)
    monkeypatch.setattr(
        "metalens.estimators.base.side_by_side", lambda folds: [[n] for n in range(len(folds))]
    )
    _, alone = folds_of(frame, monkeypatch, **how)
    for part, again in zip(together, alone, strict=True):
        for name in ("R2D2", "JointModel"):
            states = (p.estimator._trained[name][0].state_dict() for p in (part, again))
            torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)


def test_folds_whose_inputs_differ_are_trained_apart(monkeypatch):
    frame = pupils()
    frame["town"] = np.where((frame.pupil == 3) & (frame.effort > 0), "rare", "usual")
    model, parts = folds_of(frame, monkeypatch, steps=2)
    sizes = {len(part.estimator.reader_.encoding.names) for part in parts}
    assert len(sizes) == 2
    assert model._choices[5].n_tasks == 12


def test_the_choice_is_that_of_the_draws_of_all_folds(monkeypatch):
    model, parts = folds_of(pupils(), monkeypatch)
    found = [
        draw
        for part in parts
        for draw in part.estimator._draws(part.tasks, part.candidates, len(part.tasks.task_names))
    ]
    _, choice, _ = choose({"val": [], "test": found}, model._scores, "r2", fallback=True)
    assert (choice.model, choice.weights, choice.score) == (
        model.chosen_, model.weights_[5], model._choices[5].score
    )  # fmt: skip
    truth = pupils().groupby("pupil").score
    for draw in found:  # in their own units, which are others in each fold
        assert np.isin(np.round(draw.known.numpy(), 2), truth.get_group(int(draw.task)).round(2)).all()


@pytest.mark.slow
def test_steps_on_all_tasks_are_the_median_of_folds(monkeypatch):
    seen = {}
    progress = lambda name: lambda step, loss: seen.update({name: step})  # noqa: E731
    model = fitted(pupils(), steps=60, patience=3, baselines=("JointModel",), fit={"progress": progress})
    assert set(seen) == {"R2D2", "JointModel", "R2D2 in folds", "JointModel in folds"}
    curve = model.curve_[(model.curve_.split == "val") & (model.curve_.metric == "mse")]
    for name, of_model in curve.groupby("model"):
        best = [of_fold.step[of_fold.value.idxmin()] for _, of_fold in of_model.groupby("fold")]
        assert seen[name] == np.median(best)


def test_the_same_seed_gives_the_same_bytes(model, tmp_path):
    model.save(tmp_path / "one")
    fitted(pupils()).save(tmp_path / "other")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_what_was_saved_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again, new = load_model(tmp_path / "model"), pupils(1, seed=1)
    assert again.n_folds_ == N_FOLDS
    for k in (0, 5):
        one, other = (of.adapt(new[:k] if k else None) for of in (model, again))
        np.testing.assert_array_equal(one.predict_interval(new[5:]), other.predict_interval(new[5:]))


def test_notes_come_once():
    frame = pupils(13).assign(year=lambda table: table.groupby("pupil").cumcount())
    frame = frame[(frame.pupil < 12) | (frame.year < 5)]
    frame.loc[frame.pupil == 1, "score"] = 7.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MetaRegressor("R2D2", baselines=("Ridge",), fallback=False, **QUICK).fit(frame, **ROLES)
    texts = [str(one.message) for one in caught]
    for part in (
        "Column year looks like a time",
        "1 of the 13 tasks of the train split",
        "In 1 of the 12 tasks",
    ):
        assert sum(part in text for text in texts) == 1, part
    assert len(texts) == len(set(texts))


def test_a_baseline_that_diverges_in_folds_is_left_out(monkeypatch):
    from metalens.errors import DivergenceError
    from metalens.estimators.training import Trainee

    train = Trainee.train

    def diverging(self, tasks, *others, **settings):
        if self.learner == "JointModel" and tasks[0].val is not None:
            raise DivergenceError("The loss is nan.")
        return train(self, tasks, *others, **settings)

    monkeypatch.setattr(Trainee, "train", diverging)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = MetaRegressor("R2D2", baselines=("JointModel", "Ridge"), **QUICK).fit(pupils(), **ROLES)
    text = "The baseline JointModel is left out: its training diverged in folds."
    assert [str(one.message) for one in caught].count(text) == 1
    assert set(model.comparison_.model) - {"Stacked"} == {"R2D2", "Ridge"}


def test_classes_are_cross_fitted_too():
    frame = pupils().assign(score=lambda table: np.where(table.effort > 0, "high", "low"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaClassifier("R2D2", baselines=("LogisticRegression",), **QUICK).fit(frame, **ROLES)
    assert (model.n_folds_, model._choices[5].n_tasks) == (N_FOLDS, 12)
    scores = model.comparison_[model.comparison_.metric == "accuracy"]
    assert set(scores.task) == {str(number) for number in range(12)}
    assert scores.groupby("model").value.mean().max() > 0.75


def test_new_classes_have_no_folds():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": np.arange(12).repeat(8).astype(str), "size": rng.normal(size=96)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaClassifier(steps=2, hidden=(4,), baselines=("KNN",)).fit(frame, target="kind")
    assert model.n_folds_ == 0


@pytest.mark.slow
def test_the_report_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pupils().to_csv("pupils.csv", index=False)
    words = "--data pupils.csv --task pupil --target score --steps 50 --k_shot 5 --n_query 4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(["train", *words.split(), "--baselines", "Ridge"])
    said = "Each task was held out once, in 5 folds; what adapts was trained on all 12 tasks."
    page = (tmp_path / "model" / "report.html").read_text()
    assert said in page
    assert "Tasks are divided into 5 folds" in page
    for words in ("took no part in training", "this one trained model", "Relations between held-out tasks"):
        assert words not in page
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_intervals_hold_their_share_of_new_tasks():
    inside = []
    for seed in range(12):
        model = fitted(pupils(20, seed=seed), baselines=("MixedModel",), steps=50)
        for _, new in pupils(10, 25, seed=100 + seed).groupby("pupil"):
            for k in (0, 3, 5):
                low, high = model.adapt(new[:k] if k else None).predict_interval(new[5:], 0.8).T
                inside.append((k, np.mean((low <= new.score[5:]) & (new.score[5:] <= high))))
    shares = pd.DataFrame(inside, columns=["k", "share"]).groupby("k").share.mean()
    assert ((shares > 0.74) & (shares < 0.92)).all(), shares  # 120 tasks of 12 models


def test_tasks_of_a_table_may_be_divided_by_their_names():
    frame = pupils(4)
    splits = {"0": "train", "1": "train", "2": "val", "3": "test"}
    tasks = TableTasks(frame, **ROLES, splits=splits, k_shot=5, n_query=4)
    assert [tasks.in_split(split).task_names for split in ("train", "val", "test")] == [
        ("0", "1"),
        ("2",),
        ("3",),
    ]
    fewer = tasks.with_validation(["1"])
    assert (fewer.task_names, fewer.in_split("val").task_names) == (("0",), ("1", "2"))
    assert fewer.target_mean == tasks.target_mean
    assert copy(tasks).task_names == ("0", "1")
