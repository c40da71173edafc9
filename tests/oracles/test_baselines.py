"""The classical baselines against scikit-learn, called directly."""

import numpy as np
import pytest
import torch
from sklearn import linear_model, neighbors
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.model_selection import GridSearchCV, LeaveOneOut
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from small_networks import N_WAY, classification_tasks, regression_tasks

from metalens import (
    KNN,
    Examples,
    GaussianProcess,
    LogisticRegression,
    MeanPredictor,
    MetaAug,
    MetaLensError,
    MetaMix,
    NearestCentroid,
    Objective,
    RandomForest,
    Ridge,
    Sinusoid,
    Task,
    TRLearner,
    evaluate,
    fit,
    mlp,
    stack_tasks,
)

STRENGTHS = [0.001, 0.01, 0.1, 1, 10, 100, 1000]
GRID = {"n_neighbors": [1, 2, 3, 5, 8]}


def drawn(kind, k_shot=4, seed=0):
    """A task of five inputs: with N_WAY real targets, or as many classes."""
    rng = np.random.default_rng(seed)

    def examples(n):
        y = np.arange(N_WAY).repeat(n)
        x = rng.standard_normal((len(y), 5)) + y[:, None]
        if kind == "regression":
            y = x[:, :N_WAY] ** 2 + 0.3 * rng.standard_normal((len(y), N_WAY))
        return Examples(torch.from_numpy(x), torch.from_numpy(y))

    return Task(examples(k_shot), examples(7))


def arrays(task):
    return task.support.x.numpy(), task.support.y.numpy(), task.query.x.numpy()


def predictions_of(learner, task):
    return learner.double()(task.support)(task.query.x).numpy()


@pytest.mark.parametrize("seed", range(3))
def test_ridge_is_that_of_scikit_learn(seed):
    task = drawn("regression", seed=seed)
    x, y, new = arrays(task)
    expected = RidgeCV(STRENGTHS).fit(x, y).predict(new)
    np.testing.assert_allclose(predictions_of(Ridge(N_WAY), task), expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_ridge_classifies_as_the_classifier_of_scikit_learn(seed):
    task = drawn("classification", seed=seed)
    expected = RidgeClassifierCV(STRENGTHS).fit(*arrays(task)[:2]).decision_function(arrays(task)[2])
    # Its columns are 1 and -1, ours 1 and 0.
    np.testing.assert_allclose(2 * predictions_of(Ridge(N_WAY), task) - 1, expected, rtol=1e-9)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [None, 1, 4])
def test_neighbors_are_those_of_scikit_learn(seed, k, metric):
    task = drawn("regression", seed=seed)
    x, y, new = arrays(task)
    model = KNeighborsRegressor(k or 1, metric=metric)
    if k is None:
        model = GridSearchCV(model, GRID, cv=LeaveOneOut(), scoring="neg_mean_squared_error")
    predictions = predictions_of(KNN(N_WAY, n_neighbors=k, metric=metric), task)
    np.testing.assert_allclose(predictions, model.fit(x, y).predict(new), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [None, 1, 4])
def test_neighbors_classify_as_those_of_scikit_learn(seed, k):
    task = drawn("classification", seed=seed)
    x, y, new = arrays(task)
    model = KNeighborsClassifier(k or 1)
    if k is None:
        model = GridSearchCV(model, GRID, cv=LeaveOneOut(), scoring="accuracy")
    expected = model.fit(x, y).predict_proba(new)
    predictions = predictions_of(KNN(N_WAY, n_neighbors=k), task)
    np.testing.assert_allclose(predictions, np.log(expected.clip(min=1e-6)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_forest_is_that_of_scikit_learn(kind):
    task = drawn(kind)
    x, y, new = arrays(task)
    order = sorted(range(len(x)), key=lambda row: tuple(x[row][::-1]))  # rows are sorted by their values
    x, y = x[order], y[order]
    if kind == "regression":
        expected = RandomForestRegressor(20, random_state=3).fit(x, y).predict(new)
    else:
        probabilities = RandomForestClassifier(20, random_state=3).fit(x, y).predict_proba(new)
        expected = np.log(probabilities.clip(min=1e-6))
    np.testing.assert_allclose(
        predictions_of(RandomForest(N_WAY, n_trees=20, seed=3), task), expected, rtol=1e-12
    )


@pytest.mark.parametrize("k_shot", [2, 4])
def test_nearest_means_are_those_of_scikit_learn(k_shot):
    task = drawn("classification", k_shot=k_shot)
    x, y, new = arrays(task)
    logits = predictions_of(NearestCentroid(N_WAY), task)
    np.testing.assert_array_equal(logits.argmax(1), neighbors.NearestCentroid().fit(x, y).predict(new))
    means = np.stack([x[y == label].mean(0) for label in range(N_WAY)])
    scale = np.mean([np.sum((row - x.mean(0)) ** 2) for row in x])
    expected = np.exp([[-np.sum((row - mean) ** 2) / scale for mean in means] for row in new])
    np.testing.assert_allclose(np.exp(logits), expected / expected.sum(1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize("c", [1.0, 0.01])
def test_logistic_regression_is_that_of_scikit_learn(c):
    task = drawn("classification")
    x, y, new = arrays(task)
    expected = linear_model.LogisticRegression(C=c, max_iter=1000).fit(x, y).predict_log_proba(new)
    predictions = predictions_of(LogisticRegression(N_WAY, inverse_strength=c), task)
    np.testing.assert_allclose(predictions, expected.clip(min=np.log(1e-6)), rtol=1e-9)


@pytest.mark.parametrize("build", [NearestCentroid, LogisticRegression])
def test_classifiers_bear_absent_classes_and_refuse_real_targets(build):
    task = drawn("classification", k_shot=3)
    without = Examples(task.support.x[3:], task.support.y[3:])
    logits = build(N_WAY).double()(without)(task.query.x)
    assert logits.isfinite().all()
    assert not (logits.argmax(1) == 0).any()
    alike = Examples(torch.ones(2, 5, dtype=torch.float64), torch.tensor([1, 1]))
    assert (build(N_WAY).double()(alike)(1e3 * task.query.x).argmax(1) == 1).all()
    with pytest.raises(MetaLensError, match=f"{build.__name__} is a classifier, got real targets"):
        build(N_WAY).double()(drawn("regression").support)
    with pytest.raises(MetaLensError, match="inverse_strength must be above 0, got 0"):
        LogisticRegression(N_WAY, inverse_strength=0)


@pytest.mark.parametrize("build", [Ridge, KNN, RandomForest, MeanPredictor, GaussianProcess])
def test_few_examples_and_classes_without_any(build):
    one = Examples(torch.ones(1, 5, dtype=torch.float64), torch.tensor([[1.0, 2.0, 3.0]]).double())
    x = torch.randn(4, 5, dtype=torch.float64)
    np.testing.assert_allclose(build(N_WAY).double()(one)(x), one.y.expand(4, 3).numpy())
    task = drawn("classification", k_shot=3)
    without = Examples(task.support.x[3:], task.support.y[3:])
    logits = build(N_WAY).double()(without)(task.query.x)
    assert logits.isfinite().all()
    assert not (logits.argmax(1) == 0).any()
    single = Examples(task.support.x[:1], task.support.y[:1])
    assert (build(N_WAY).double()(single)(task.query.x).argmax(1) == single.y).all()


def test_with_one_example_per_class_the_nearest_one_decides():
    task = drawn("classification", k_shot=1)
    distances = torch.cdist(task.query.x, task.support.x)
    logits = KNN(N_WAY).double()(task.support)(task.query.x)
    assert torch.equal(logits.argmax(1), task.support.y[distances.argmin(1)])


@pytest.mark.parametrize(
    "build", [Ridge, KNN, NearestCentroid, LogisticRegression, RandomForest, MeanPredictor, GaussianProcess]
)
def test_inputs_of_any_shape_are_rows_of_numbers(build):
    images = classification_tasks("conv-norm")
    task = Task(*(Examples(x[0], y[0]) for x, y in images[:2]))
    flat = Task(*(Examples(x.flatten(1), y) for x, y in task[:2]))
    assert torch.equal(
        build(N_WAY).double()(task.support)(task.query.x),
        build(N_WAY).double()(flat.support)(flat.query.x),
    )


def test_nothing_is_trained_and_every_arm_meets_the_same_tasks():
    objective = Objective(Ridge(n_outputs=1))
    assert not [p for p in objective.parameters() if p.requires_grad]
    curve = fit(objective, Sinusoid(), steps=3, meta_batch_size=4)
    assert curve.empty
    rows = evaluate(objective.learner, Sinusoid("test"), n_tasks=3)
    for number, value in enumerate(rows.value):
        task = Sinusoid("test")[number]
        predictions = RidgeCV(STRENGTHS).fit(*arrays(task)[:2]).predict(arrays(task)[2]).reshape(-1, 1)
        assert value == pytest.approx(((predictions - task.query.y.numpy()) ** 2).mean(), rel=1e-3)
    with torch.no_grad():
        assert objective(stack_tasks([Sinusoid()[0], Sinusoid()[1]]))["query"].isfinite()


def test_no_regularizer_acts_on_a_baseline():
    for regularizer in (TRLearner(), MetaMix(), MetaAug()):
        words = f"{type(regularizer).__name__} cannot act on Ridge: it learns nothing across tasks"
        with pytest.raises(MetaLensError, match=words):
            Objective(Ridge(n_outputs=1), [regularizer])


def test_device_and_precision_are_those_it_was_moved_to():
    learner = Ridge(n_outputs=1)
    assert (learner.device.type, learner.dtype) == ("cpu", torch.float32)
    assert not learner.state_dict()
    assert Objective(learner).double().learner.dtype == torch.float64
    assert learner.to("meta").device.type == "meta"


def test_wrong_uses_are_refused():
    with pytest.raises(MetaLensError, match="batching='vmap' is not possible: Ridge is a model of scikit"):
        Ridge(n_outputs=1).plan("vmap")
    with pytest.raises(MetaLensError, match="batching must be"):
        Ridge(n_outputs=1).plan("fast")
    with pytest.raises(MetaLensError, match="n_neighbors must be at least 1, or None, got 0"):
        KNN(n_outputs=1, n_neighbors=0)
    with pytest.raises(MetaLensError, match="metric must be euclidean or cosine, got 'jaccard'"):
        KNN(n_outputs=1, metric="jaccard")
    with pytest.raises(MetaLensError, match="n_trees of at least 1"):
        RandomForest(n_outputs=1, n_trees=0)
    tasks = regression_tasks("mlp")
    for wrong in (0, -1, 1.5, mlp()):
        with pytest.raises(MetaLensError, match="Ridge: n_outputs must be a whole number of at least 1, got"):
            Ridge(wrong)
    with pytest.raises(MetaLensError, match="Real targets must have the shape"):
        Ridge(n_outputs=2).double().adapt(Examples(tasks.support.x[0], tasks.support.y[0]))
