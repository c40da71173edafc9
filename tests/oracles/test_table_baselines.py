"""Baselines for tables against scikit-learn, called directly, and against their formulas."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV

from metalens import (
    Examples,
    GaussianProcess,
    JointModel,
    Machine,
    MeanPredictor,
    MetaLensError,
    Objective,
    ProfileRidge,
    Sinusoid,
    TableTasks,
    Validation,
    evaluate,
    fit,
    mlp,
)
from metalens.learners.baselines.ridge import STRENGTHS
from metalens.learners.baselines.tanimoto import Tanimoto


def drawn(binary=False, n=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + 5, 6))
    x = (x > 0).astype(float) if binary else x
    y = x[:, :2].sum(1, keepdims=True) + 0.1 * rng.standard_normal((n + 5, 1))
    return x[:n], y[:n], x[n:]


def predictions_of(learner, x, y, new):
    learner = learner.double()
    return learner(Examples(torch.from_numpy(x), torch.from_numpy(y)))(torch.from_numpy(new)).detach().numpy()


def test_mean_is_the_mean_and_the_share():
    x, y, new = drawn()
    np.testing.assert_allclose(
        predictions_of(MeanPredictor(n_outputs=1), x, y, new), np.full((5, 1), y.mean())
    )
    classes = np.array([0] * 3 + [2] * 9)
    expected = np.log([[0.25, 1e-6, 0.75]] * 5)
    np.testing.assert_allclose(predictions_of(MeanPredictor(n_outputs=3), x, classes, new), expected)


@pytest.mark.filterwarnings("ignore:The optimal value found")
@pytest.mark.parametrize("seed", range(3))
def test_gaussian_process_on_real_inputs_is_that_of_scikit_learn(seed):
    x, y, new = drawn(seed=seed)
    kernel = ConstantKernel() * RBF(6**0.5) + WhiteKernel()
    expected = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, y).predict(new)
    np.testing.assert_allclose(
        predictions_of(GaussianProcess(n_outputs=1), x, y, new), expected[:, None], rtol=1e-6
    )


@pytest.mark.filterwarnings("ignore:The optimal value found")
@pytest.mark.parametrize("seed", range(3))
def test_gaussian_process_on_bits_follows_from_the_tanimoto_similarity(seed):
    x, y, new = drawn(binary=True, seed=seed)
    found = predictions_of(GaussianProcess(n_outputs=1), x, y, new)
    np.testing.assert_array_equal(
        found, predictions_of(GaussianProcess(n_outputs=1, kernel="tanimoto"), x, y, new)
    )
    model = GaussianProcessRegressor(ConstantKernel() * Tanimoto() + WhiteKernel(), normalize_y=True).fit(
        x, y
    )
    amplitude, noise = np.exp(model.kernel_.theta)
    products = np.array([[(a * b).sum() for b in x] for a in np.concatenate([x, new])])
    sizes = np.concatenate([x, new]).sum(1)
    unions = sizes[:, None] + x.sum(1) - products
    similarity = products / np.maximum(unions, 1)  # without any bit, none is common
    covariance = amplitude * similarity[:12] + noise * np.eye(12)
    residuals = np.linalg.solve(covariance, (y - y.mean()) / y.std())
    expected = y.mean() + y.std() * amplitude * similarity[12:] @ residuals
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # The likelihood that it maximizes has no gradient there, but at the bounds.
    gradient = model.log_marginal_likelihood(model.kernel_.theta, eval_gradient=True)[1]
    inside = (model.kernel_.theta > model.kernel_.bounds[:, 0] + 1e-6) & (
        model.kernel_.theta < model.kernel_.bounds[:, 1] - 1e-6
    )
    assert np.abs(gradient[inside]).max(initial=0) < 1e-2


def test_molecules_without_bits_share_nothing():
    x = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    kernel = Tanimoto()
    np.testing.assert_allclose(kernel(x), [[0, 0, 0], [0, 1, 0.5], [0, 0.5, 1]])
    np.testing.assert_allclose(kernel.diag(x), np.diag(kernel(x)))
    assert not kernel.is_stationary()


def table(seed=0):
    """Assays whose activities are mixtures of two hidden ones, on few molecules each."""
    rng = np.random.default_rng(seed)
    x = (rng.random((60, 20)) < 0.5).astype(float)
    hidden = x @ rng.standard_normal((20, 2))
    rows = [
        (f"assay{assay:02d}", molecule, *x[molecule], hidden[molecule] @ mixture)
        for assay, mixture in enumerate(rng.standard_normal((30, 2)))
        for molecule in rng.permutation(60)[:40]
    ]
    return pd.DataFrame(rows, columns=["assay", "molecule", *(f"x{i}" for i in range(20)), "activity"])


def tasks_of(split, **changes):
    settings = {"task": "assay", "target": "activity", "inputs": [f"x{i}" for i in range(20)]}
    return TableTasks(table(), split, **settings, k_shot=6, n_query=8, duplicates="allow", **changes)


def test_profile_is_ridge_on_the_predictions_of_ridge():
    train, test = tasks_of("train"), tasks_of("test")
    profile = ProfileRidge(n_outputs=1, n_tasks=50).double()
    fit(Objective(profile), train, steps=1, meta_batch_size=2)
    examples = {}
    for number in range(50):
        examples.setdefault(train.task_name(number), []).extend(train[number][:2])
    assert len(examples) == len(train.task_names) == 22
    models = [
        RidgeCV(STRENGTHS).fit(
            torch.cat([e.x for e in parts]).numpy(), torch.cat([e.y for e in parts]).numpy()
        )
        for parts in examples.values()
    ]
    support, query, _ = test[0]

    def inputs(x):
        return np.concatenate([model.predict(x).reshape(-1, 1) for model in models], axis=1)

    expected = RidgeCV(STRENGTHS).fit(inputs(support.x.numpy()), support.y.numpy()).predict(inputs(query.x))
    found = profile(Examples(*(part.double() for part in support)))(query.x.double())
    np.testing.assert_allclose(found.flatten(), np.ravel(expected), rtol=1e-3, atol=1e-4)


def test_profile_uses_related_tasks_and_is_kept_with_the_weights(tmp_path):
    test = tasks_of("test")
    plain = evaluate(MeanPredictor(n_outputs=1), test, n_tasks=4).value.mean()
    profile = ProfileRidge(n_outputs=1)
    without = evaluate(profile, test, n_tasks=4).value.mean()
    assert without == pytest.approx(plain, rel=1e-5)
    fit(Objective(profile), tasks_of("train"), steps=1, meta_batch_size=2, out=tmp_path)
    scores = evaluate(profile, test, n_tasks=4).query("metric == 'pearson_r2'").value
    assert scores.mean() > 0.8
    again = Objective(ProfileRidge(n_outputs=1))
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert (
        evaluate(again.learner, test, n_tasks=4).query("metric == 'pearson_r2'").value.tolist()
        == scores.tolist()
    )


def test_profile_of_classes_has_a_column_for_each():
    frame = table().assign(hit=lambda rows: np.where(rows.activity > 0, "yes", "no")).drop(columns="activity")
    changes = {
        "task": "assay",
        "target": "hit",
        "inputs": [f"x{i}" for i in range(20)],
        "duplicates": "allow",
    }
    train, test = (TableTasks(frame, split, **changes, k_shot=8, n_query=8) for split in ("train", "test"))
    profile = ProfileRidge(n_outputs=2, n_tasks=44)
    profile.prepare(train)
    assert profile.slopes.shape == (44, 20)
    scores = evaluate(profile, test, n_tasks=4).query("metric == 'accuracy'").value
    assert scores.mean() > 0.6


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_global_model_is_trained_and_ignores_the_support(compiled):
    learner = JointModel(mlp(1, 1, [16]))
    validation = Validation(Sinusoid("val"), n_tasks=5, every=10)
    curve = fit(
        Objective(learner),
        Sinusoid(),
        steps=20,
        meta_batch_size=4,
        validation=validation,
        machine=Machine(compile=compiled),
    )
    assert {"query", "mse"} == set(curve.metric)
    task = Sinusoid("test")[0]
    other = learner(Sinusoid("test")[1].support)
    assert torch.equal(learner(task.support)(task.query.x), other(task.query.x))
    torch.testing.assert_close(other(task.query.x), learner.network(task.query.x))


def test_wrong_settings_are_refused():
    with pytest.raises(MetaLensError, match="kernel must be auto, tanimoto or rbf, got 'linear'"):
        GaussianProcess(n_outputs=1, kernel="linear")
    with pytest.raises(MetaLensError, match="n_tasks must be at least 1, got 0"):
        ProfileRidge(n_outputs=1, n_tasks=0)
