"""The benchmark of a few rows of new groups: its protocol, and the outside methods installed here."""

from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from metalens import MetaLensError, MetaRegressor
from metalens.estimators import FallbackWarning
from tools.tables import boosting, cell, mixed, residuals, results, scores, single
from tools.tables.design import Design, most_related
from tools.tables.family import FAMILIES, Family, Fitted, NotApplicableError
from tools.tables.ours import alone, of_intervals
from tools.tables.problems import PROBLEMS, Problem
from tools.tables.protocol import LEAST_QUERY, N_FOLDS, Episode, episodes, fold_of_tasks, split

ROWS = 12
PROBLEM = Problem(name="made", file="", task="group", target="y", about="made up; a task is a group")
CLASSES = Problem(name="made", file="", task="group", target="y", kind="class", about="made up")


def table(n_tasks=15, *, classes=False, seed=0):
    """Tasks with levels, slopes on `x`, a useless number with gaps, and words."""
    rng = np.random.default_rng(seed)
    group = np.repeat([f"g{n}" for n in range(n_tasks)], ROWS)
    x, noise = rng.normal(size=(2, len(group)))
    level = np.repeat(rng.normal(scale=2, size=n_tasks), ROWS)
    y = level + np.repeat(rng.normal(2, 0.5, n_tasks), ROWS) * x + 0.1 * noise
    other = np.where(rng.random(len(group)) < 0.1, np.nan, rng.normal(size=len(group)))
    y = np.where(y > np.median(y), "yes", "no") if classes else y
    return pd.DataFrame(
        {"x": x, "other": other, "word": rng.choice(["a", "b"], len(group)), "group": group, "y": y}
    )


def test_every_task_is_held_out_once():
    frame = table()
    held_out = [set(split(frame, PROBLEM, number)[1]["group"]) for number in range(N_FOLDS)]
    assert sorted(name for names in held_out for name in names) == sorted(frame["group"].unique())
    for number, names in enumerate(held_out):
        assert not names & set(split(frame, PROBLEM, number)[0].groups)
    assert fold_of_tasks(frame, PROBLEM) == fold_of_tasks(frame.sample(frac=1, random_state=0), PROBLEM)


@pytest.mark.parametrize("k", [0, 3, ROWS - LEAST_QUERY])
def test_queries_are_the_other_rows_without_targets(k):
    frame = table()
    _, held_out = split(frame, PROBLEM, 0)
    found = list(episodes(held_out, PROBLEM, k, draw=0))
    assert {episode.task for episode in found} == set(held_out["group"])
    for episode in found:
        rows = held_out.index[held_out["group"] == episode.task]
        assert len(episode.support) == k
        assert sorted([*episode.support.index, *episode.query.index]) == sorted(rows)
        assert "y" not in episode.query


def test_fewer_known_rows_are_part_of_more_and_draws_differ():
    _, held_out = split(table(), PROBLEM, 0)
    few, many = (next(episodes(held_out, PROBLEM, k, draw=0)).support.index for k in (3, 5))
    assert list(few) == list(many[:3])
    assert list(few) != list(next(episodes(held_out, PROBLEM, 3, draw=1)).support.index)
    assert not list(episodes(held_out, PROBLEM, ROWS - LEAST_QUERY + 1, draw=0))


def test_the_earliest_rows_are_known_where_rows_have_an_order():
    problem = replace(PROBLEM, order="x")
    _, held_out = split(table(), problem, 0)
    for episode in episodes(held_out, problem, 4, draw=0):
        assert episode.support["x"].max() <= episode.query["x"].min()
    assert problem.columns()["order"] == "x"
    assert "order" not in PROBLEM.columns()


def test_scores():
    truth, known = np.array([1.0, 3.0]), np.array([5.0])
    found = scores.of_numbers(np.array([2.0, 3.0]), truth, known)
    assert found == {"skill": pytest.approx(1 - 0.5 / np.var([1, 3, 5])), "mse": 0.5}
    assert scores.of_numbers(truth + 99, truth, known)["skill"] == -1
    assert scores.of_numbers(truth, np.ones(2), np.ones(1))["skill"] == 0
    found = scores.of_chances(np.array([0.2, 0.9, 0.4]), np.array([0.0, 1.0, 1.0]))
    assert found["log_loss"] == pytest.approx(-np.log([0.8, 0.9, 0.4]).mean())
    assert (found["accuracy"], found["roc_auc"]) == (pytest.approx(2 / 3), 1.0)
    assert np.isnan(scores.of_chances(np.array([0.0]), np.array([1.0]))["roc_auc"])


@pytest.mark.filterwarnings("ignore:The optimal value found:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classes", [False, True])
def test_models_of_one_task_see_its_known_rows(classes):
    problem = CLASSES if classes else PROBLEM
    fold, held_out = split(table(classes=classes), problem, 0)
    methods = {fitted.label: fitted.predict for fitted in single.of_one_task(fold)}
    batch = list(episodes(held_out, problem, 6, 0))
    found = {label: predict(batch) for label, predict in methods.items()}
    for label, predictions in found.items():
        assert [p.shape for p in predictions] == [(ROWS - 6,)] * len(batch), label
    first = (batch[0].support["y"] == "yes") if classes else batch[0].support["y"]
    population = fold.y.mean()
    level = (first.sum() + population) / 7 if classes else first.mean()
    assert np.allclose(found["task share" if classes else "task mean"][0], level)
    empty = list(episodes(held_out, problem, 0, 0))
    assert np.allclose(methods["task share" if classes else "task mean"](empty)[0], population)
    with pytest.raises(NotApplicableError):
        methods["task GP"](empty)


def test_logistic_is_that_of_scikit_learn_and_one_class_is_a_share():
    fold, held_out = split(table(classes=True), CLASSES, 0)
    design = Design(fold)
    methods = {fitted.label: fitted.predict for fitted in single.of_one_task(fold)}
    episode = next(e for e in episodes(held_out, CLASSES, 8, 0) if e.support["y"].nunique() == 2)
    oracle = LogisticRegression().fit(design.matrix(episode.support), episode.support["y"] == "yes")
    expected = oracle.predict_proba(design.matrix(episode.query))[:, 1]
    assert np.allclose(methods["task logistic"]([episode])[0], expected, atol=1e-4)
    alike = Episode("g", episode.support.assign(y="yes"), episode.query)
    assert np.allclose(methods["task logistic"]([alike])[0], (8 + fold.y.mean()) / 9)


@pytest.mark.filterwarnings("ignore:The optimal value found:sklearn.exceptions.ConvergenceWarning")
def test_the_kernel_of_molecules_fits_scikit_learn():
    a, b = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert single.tanimoto(a, b).tolist() == [[0.25, 1.0, 0.0]]
    bits = (np.random.default_rng(0).random((12, 30)) < 0.3).astype(float)
    y = bits @ np.arange(30.0)
    found = single.gaussian_process(single.Tanimoto(), bits, y, bits)
    assert np.corrcoef(found, y)[0, 1] > 0.9


def test_mixed_models_know_the_level_of_a_task():
    fold, held_out = split(table(), PROBLEM, 0)
    intercept, slope = mixed.mixed_models(fold)
    assert (slope.label, slope.note) == ("MixedLM, random slope", "slope on x")
    batch = list(episodes(held_out, PROBLEM, 6, 0))
    errors = {}
    for fitted in (intercept, slope):
        pairs = zip(batch, fitted.predict(batch), strict=True)
        truth = held_out["y"]
        errors[fitted.label] = np.mean([np.mean((p - truth[e.query.index]) ** 2) for e, p in pairs])
    assert errors["MixedLM, random slope"] < errors["MixedLM, random intercept"] < 1 < held_out["y"].var()
    unknown = intercept.predict(list(episodes(held_out, PROBLEM, 0, 0)))
    assert all(np.isfinite(p).all() for p in unknown)


def test_mixed_logistic_knows_the_level_of_a_task():
    fold, held_out = split(table(classes=True), CLASSES, 0)
    (fitted,) = mixed.mixed_models(fold)
    batch = list(episodes(held_out, CLASSES, 6, 0))
    for episode, chances in zip(batch, fitted.predict(batch), strict=True):
        assert ((chances > 0) & (chances < 1)).all()
        other = Episode(episode.task, episode.support.assign(y="yes"), episode.query)
        assert (fitted.predict([other])[0] >= chances - 1e-3).all()
        break


def test_collinear_and_constant_columns_are_left_out():
    x = np.random.default_rng(0).normal(size=(30, 2))
    matrix = np.column_stack([x, x[:, 0] * 3, np.ones(30), x.sum(1)])
    assert len(mixed.independent(matrix)) == 2


def test_the_most_related_column_is_that_within_tasks():
    groups = np.repeat([0, 1], 10)
    within = np.tile(np.arange(10.0), 2)
    y = within + 100 * groups
    assert most_related(np.column_stack([groups + 0.01 * (within % 3), within]), y, groups) == 1


class Ridge:
    """In the place of a boosted model."""

    def __init__(self, kind, *, molecules, rounds=7):
        self.rounds = rounds

    def fit(self, x, y, valid):
        self.model = LogisticRegression() if set(y) == {0.0, 1.0} else np.polyfit(x["x"], y, 1)
        if isinstance(self.model, LogisticRegression):
            self.model.fit(x[["x"]], y)
        return self

    def predict(self, x):
        if isinstance(self.model, LogisticRegression):
            return self.model.decision_function(x[["x"]])
        return np.polyval(self.model, x["x"])


def test_corrections_of_a_pooled_model_are_better_in_their_order():
    fold, held_out = split(table().drop(columns=["other", "word"]), PROBLEM, 0)
    batch = list(episodes(held_out, PROBLEM, 6, 0))
    mse = []
    for fitted in boosting.pooled(fold, Ridge, "line"):
        predictions = fitted.predict(batch)
        pairs = zip(batch, predictions, strict=True)
        mse.append(np.mean([np.mean((p - held_out["y"][e.query.index]) ** 2) for e, p in pairs]))
    assert mse[0] > 5 * mse[1] > 5 * mse[2]


def test_chances_of_a_pooled_model_move_to_the_known_classes():
    fold, held_out = split(table(classes=True), CLASSES, 0)
    alone, shrunken = boosting.pooled(fold, Ridge, "line")
    episode = next(episodes(held_out, CLASSES, 6, 0))
    high, low = (Episode("g", episode.support.assign(y=word), episode.query) for word in ("yes", "no"))
    (up,), (down,), (plain,) = (shrunken.predict([high]), shrunken.predict([low]), alone.predict([episode]))
    assert (up > plain).all()
    assert (down < plain).all()
    (empty,) = shrunken.predict([Episode("g", episode.support[:0], episode.query)])
    assert np.allclose(empty, plain)


def test_variances_and_shrinkage():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 5)
    values = np.repeat(rng.normal(scale=2, size=400), 5) + rng.normal(size=2000)
    between, within = residuals.level_variances(values, groups)
    oracle = stats.f_oneway(*values.reshape(400, 5)).statistic  # 1 + 5 between / within
    assert between / within == pytest.approx((oracle - 1) / 5)
    assert (between, within) == (pytest.approx(4, rel=0.2), pytest.approx(1, rel=0.1))
    assert residuals.shrunken_mean(np.array([2.0, 4.0]), 1.0, 2.0) == pytest.approx(1.5)
    assert residuals.shrunken_mean(np.array([2.0]), 0.0, 2.0) == 0


def test_offsets_of_log_odds():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 20)
    y = (rng.random(6000) < 1 / (1 + np.exp(-np.repeat(rng.normal(size=300), 20)))).astype(float)
    assert residuals.logit_variance(y, np.zeros(6000), groups) == pytest.approx(1, rel=0.25)
    found = residuals.offset(np.ones(4), np.zeros(4), 2.0)
    assert found / 2.0 == pytest.approx(4 / (1 + np.exp(found)))


def test_words_and_gaps_are_encoded():
    fold, held_out = split(table(), PROBLEM, 0)
    design = Design(fold)
    matrix = design.matrix(held_out.assign(word="new"))
    assert matrix.shape[1] == 5  # two numbers, gaps of one, two words
    assert np.isfinite(matrix).all()
    assert not matrix[:, -2:].any()
    trees = design.for_trees(held_out.assign(word="new"))
    assert trees["word"].isna().all()
    assert trees["other"].isna().any()


def test_failures_are_results(monkeypatch):
    def family(fold):
        yield Fitted("none", lambda es: (_ for _ in ()).throw(NotApplicableError("needs rows")))
        yield Fitted("nan", lambda es: [np.full(len(e.query), np.nan) for e in es])
        yield Fitted("fails", lambda es: [1 / 0])
        yield Fitted("good", lambda es: [np.zeros(len(e.query)) for e in es])
        raise RuntimeError("the end\nof all")

    monkeypatch.setattr(Family, "load", lambda self: family)
    found = cell.run(FAMILIES["task"], PROBLEM, table(), 0, [3], 2)
    assert found["error"] == "RuntimeError: the end"
    methods = found["methods"]
    assert methods["none"]["absent"] == {3: "needs rows"}
    assert methods["nan"]["errors"] == {3: f"ValueError: {ROWS - 3} of {ROWS - 3} predictions are not finite"}
    assert methods["fails"]["errors"] == {3: "ZeroDivisionError: division by zero"}
    assert len(methods["good"]["scores"]) == 2 * 3
    assert len(results.failures(found)) == 3


def test_all_methods_get_the_same_rows(monkeypatch):
    seen = {"a": [], "b": []}

    def family(fold):
        for name, calls in seen.items():
            yield Fitted(
                name, lambda es, calls=calls: [calls.append(e) or np.zeros(len(e.query)) for e in es]
            )

    monkeypatch.setattr(Family, "load", lambda self: family)
    cell.run(FAMILIES["task"], PROBLEM, table(), 1, [0, 5], 2)
    for one, other in zip(*seen.values(), strict=True):
        assert one.support.equals(other.support)
        assert one.query.equals(other.query)


def test_intervals_are_counted(monkeypatch):
    def family(fold):
        def limits(episodes):  # of one row less at each side, from one known row on
            if not len(episodes[0].support):
                return []
            ends = [np.sort(frame.loc[e.query.index, "y"])[[1, -2]] for e in episodes]
            return [np.tile(end, (len(e.query), 1)) for e, end in zip(episodes, ends, strict=True)]

        yield Fitted("own", lambda es: [np.zeros(len(e.query)) for e in es], limits=limits)

    frame = table()
    monkeypatch.setattr(Family, "load", lambda self: family)
    rows = cell.run(FAMILIES["task"], PROBLEM, frame, 0, [0, 2], 1)["methods"]["own"]["scores"]
    for row in rows:
        assert ("inside" in row) == (row["k"] == 2)
        if row["k"] == 2:
            assert row["inside"] == pytest.approx(1 - 2 / row["n"])
            assert row["width"] > 0


def test_limits_of_intervals_are_those_of_the_estimator():
    class Adapted(NamedTuple):
        support: pd.DataFrame | None

        def predict_interval(self, rows, coverage):
            if self.support is None:
                raise MetaLensError("not calibrated")
            return np.full((len(rows), 2), [len(self.support), coverage])

    _, held_out = split(table(), PROBLEM, 0)
    batches = {k: list(episodes(held_out, PROBLEM, k, 0)) for k in (0, 5)}
    model = SimpleNamespace(adapt=Adapted)
    assert of_intervals(model, batches[0]) == []
    found = of_intervals(model, batches[5])
    assert [limits.tolist() for limits in found] == [[[5, 0.9]] * (ROWS - 5)] * 3


def test_a_model_alone():
    frame = table().drop(columns=["other", "word"])
    fold, held_out = split(frame, PROBLEM, 0)
    settings = {"steps": 1, "hidden": [4], "baselines": ["Ridge", "MeanPredictor"], "fallback": False}
    with pytest.warns(FallbackWarning):
        model = MetaRegressor(**settings).fit(fold.train, task="group", target="y")
    episode = next(episodes(held_out, PROBLEM, 5, 0))
    found = alone(model, "MeanPredictor").adapt(episode.support).predict(episode.query)
    assert np.allclose(found, episode.support["y"].mean())


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_problems_name_columns_of_their_files(problem, data_folder):
    columns = pd.read_csv(data_folder / problem.file, nrows=1).columns
    named = [
        problem.task,
        problem.target,
        *problem.categorical,
        *([problem.smiles] if problem.smiles else []),
    ]
    assert set(named) <= set(columns)
