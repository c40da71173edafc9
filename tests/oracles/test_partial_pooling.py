"""Boosting, shrunken means and residual Gaussian processes against scikit-learn and NumPy."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct
from sklearn.linear_model import Ridge

from metalens import Boosting, Examples, MetaLensError, Objective, ResidualGP, Shrunken, TableTasks
from metalens.learners.baselines.boosted_trees import BoostedTrees
from metalens.learners.baselines.fitted import FittedBaseline, TrainingRows
from metalens.learners.baselines.linear_mean import LinearMean
from metalens.learners.baselines.pooled_mean import PooledMean
from metalens.learners.baselines.tanimoto import Tanimoto


def rows_of(seed=0, n_tasks=30, size=12, d=4, c=1, binary=False):
    """Examples of tasks with levels of their own."""
    rng = np.random.default_rng(seed)
    tasks = np.repeat(np.arange(n_tasks), size)
    x = rng.standard_normal((len(tasks), d))
    x = ((x > 0) if binary else x).astype(np.float32)
    level = rng.standard_normal((n_tasks, c))[tasks]
    y = x[:, :1] + np.sin(2 * x[:, 1:2]) + level + 0.5 * rng.standard_normal((len(tasks), c))
    return TrainingRows(x, y, tasks)


def examples(rows, chosen):
    return Examples(torch.tensor(rows.x[chosen]).double(), torch.tensor(rows.y[chosen]))


EMPTY = Examples(torch.zeros(0, 4).double(), torch.zeros(0, 1).double())
LEARNERS = [
    Boosting(1, max_rounds=20),
    Shrunken(1, mean="linear"),
    Shrunken(1),
    ResidualGP(1, mean="linear"),
]


@pytest.mark.parametrize(("c", "binary"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_trees_are_those_of_scikit_learn(c, binary, precision):
    rows = rows_of(c=c, binary=binary)
    trees = Boosting(c, max_rounds=30, min_samples_leaf=5, max_leaf_nodes=7).trees.to(precision)
    trees.fit(rows)
    new = np.concatenate([rows_of(1, binary=binary).x, rows.x])
    for output in range(c):
        rounds = int((trees.outputs == output).sum())
        settings = {
            "learning_rate": 0.1,
            "max_leaf_nodes": 7,
            "min_samples_leaf": 5,
            "early_stopping": False,
        }
        model = HistGradientBoostingRegressor(max_iter=rounds, random_state=0, **settings)
        expected = model.fit(rows.x, rows.y[:, output]).predict(new)
        tolerance = 1e-6 if precision is torch.float32 else 1e-12
        np.testing.assert_allclose(trees.predict(new)[:, output], expected, rtol=tolerance, atol=tolerance)


def test_an_input_at_a_threshold_goes_where_scikit_learn_sends_it():
    """Neighbors in single precision, whose midpoint it cannot hold."""
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2))
    x = np.repeat(np.array([[low], [high]], np.float32), 40, axis=0)
    rows = TrainingRows(x, np.repeat([[0.0], [1.0]], 40, axis=0), np.arange(80) % 4)
    trees = BoostedTrees(max_rounds=3)
    trees.fit(rows)
    one, other = trees.predict(np.array([[low], [high]])).ravel()
    assert other > one + 0.05


@pytest.mark.parametrize(("loss", "power"), [("squared_error", 2), ("absolute_error", 1)])
def test_rounds_have_the_least_error_on_whole_tasks(loss, power):
    rows = rows_of(2)
    outliers = np.random.default_rng(3).standard_t(1.5, rows.y.shape)  # by which the two errors differ
    rows = rows._replace(y=rows.y + outliers)
    trees = BoostedTrees(max_rounds=120, loss=loss)
    found, parts = trees.fit(rows), rows.parts(5)
    assert all(len(np.unique(parts[rows.tasks == task])) == 1 for task in range(30))
    stages = np.empty((120, len(rows.y)))
    for part in range(5):
        model = HistGradientBoostingRegressor(
            loss=loss, max_iter=120, learning_rate=0.1, early_stopping=False
        )
        model.fit(rows.x[parts != part], rows.y[parts != part, 0])
        stages[:, parts == part] = list(model.staged_predict(rows.x[parts == part]))
    errors = (np.abs(stages - rows.y[:, 0]) ** power).mean(1)
    assert errors.argmin() != (np.abs(stages - rows.y[:, 0]) ** (3 - power)).mean(1).argmin()
    assert len(trees.roots) == errors.argmin() + 1
    np.testing.assert_allclose(found[:, 0], stages[errors.argmin()], rtol=1e-5, atol=1e-6)


def test_the_linear_mean_is_the_best_ridge_of_held_out_tasks():
    rows, mean = rows_of(3, c=2), LinearMean().double()
    found, parts, best = mean.fit(rows), rows.parts(5), {}
    for strength in 10.0 ** np.arange(-3, 7):
        held_out = np.empty_like(rows.y)
        for part in range(5):
            model = Ridge(alpha=strength).fit(rows.x[parts != part].astype(float), rows.y[parts != part])
            held_out[parts == part] = model.predict(rows.x[parts == part])
        best[((held_out - rows.y) ** 2).mean()] = strength, held_out
    strength, held_out = best[min(best)]
    np.testing.assert_allclose(found, held_out, rtol=1e-6, atol=1e-8)
    expected = Ridge(alpha=strength).fit(rows.x.astype(float), rows.y).predict(rows.x[:5])
    np.testing.assert_allclose(mean.predict(rows.x[:5].astype(float)), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mean", ["linear", "boosting"])
def test_shrunken_is_the_formula(mean):
    rows = rows_of(4)
    shrunken = Shrunken(1, mean=mean).double()
    shrunken.fit_rows(rows)
    level, noise = shrunken.levels.item(), shrunken.noise.item()
    for s in (1, 5):
        support = examples(rows, slice(0, s))
        of_support, of_new = (shrunken.mean(part) for part in (support.x.numpy(), rows.x[20:25]))
        weight = s * level / (s * level + noise)
        expected = of_new + weight * (support.y.numpy() - of_support).mean()
        np.testing.assert_allclose(shrunken(support)(torch.tensor(rows.x[20:25])), expected, rtol=1e-10)
    _, variance = shrunken.predict_distribution(shrunken.adapt(support), torch.tensor(rows.x[20:25]))
    np.testing.assert_allclose(variance, level + noise - 5 * level**2 / (5 * level + noise), rtol=1e-10)


def test_variances_of_balanced_tasks_are_those_of_the_analysis_of_variance():
    rows = rows_of(5)
    shrunken = Shrunken(1, mean="linear").double()
    residuals = rows.y - shrunken.global_mean.fit(rows)
    shrunken.fit_residuals(rows, residuals)
    groups = residuals.reshape(30, 12)
    within = groups.var(1, ddof=1).mean()
    between = groups.mean(1).var(ddof=1) - within / 12
    np.testing.assert_allclose([shrunken.noise.item(), shrunken.levels.item()], [within, between], rtol=1e-3)


def hyper(learner, **values):
    """Set hyperparameters of a residual process."""
    for name, value in values.items():
        setattr(learner, name, torch.tensor(value, dtype=torch.float64))
    return learner


def test_residual_gp_is_that_of_scikit_learn():
    rows = rows_of(6)
    learner = ResidualGP(1, mean="linear").double()
    learner.global_mean.fit(rows)
    lengths, slopes = [0.7, 1.5, 2.0, 3.0], [0.2, 0.1, 0.3, 0.0]
    hyper(learner, level=[0.8], amplitude=[0.6], lengths=[lengths], linear=[slopes], noise=[0.3])
    support, new = examples(rows, slice(0, 9)), rows.x[40:50].astype(float)
    scaled = np.sqrt(slopes)  # the linear kernel sees inputs of their own scale
    kernel = ConstantKernel(0.8) + ConstantKernel(0.6) * RBF(lengths)
    residuals = support.y.numpy() - learner.mean(support.x.numpy())
    direct = kernel(support.x.numpy()) + DotProduct(0)(support.x.numpy() * scaled)
    cross = kernel(new, support.x.numpy()) + DotProduct(0)(new * scaled, support.x.numpy() * scaled)
    mean = learner.mean(new) + cross @ np.linalg.solve(direct + 0.3 * np.eye(9), residuals)
    np.testing.assert_allclose(learner(support)(torch.tensor(new)), mean, rtol=1e-9)

    hyper(learner, linear=[[0.0] * 4])
    model = GaussianProcessRegressor(kernel, alpha=0.3, optimizer=None).fit(support.x.numpy(), residuals)
    expected, deviation = model.predict(new, return_std=True)
    found = learner.predict_distribution(learner.adapt(support), torch.tensor(new))
    np.testing.assert_allclose(found[0][:, 0], learner.mean(new)[:, 0] + expected.ravel(), rtol=1e-8)
    np.testing.assert_allclose(found[1][:, 0], deviation.ravel() ** 2 + 0.3, rtol=1e-8)


def test_residual_gp_on_bits_has_the_tanimoto_similarity():
    rows = rows_of(7, binary=True)
    learner = ResidualGP(1, mean="linear").double()
    learner.fit_rows(rows)
    assert learner.lengths.shape == (1, 0)
    kernel = Tanimoto()(rows.x[:8].astype(float))
    expected = learner.level.item() + learner.amplitude.item() * kernel
    x = rows.x[:8].astype(float)
    np.testing.assert_allclose(learner.covariance(x, x)[0], expected, rtol=1e-10)
    np.testing.assert_allclose(learner.prior_variance(x)[0], expected.diagonal(), rtol=1e-10)


def test_hyperparameters_maximize_the_likelihood():
    """Against a density of scipy, at the maximum and beside it; sizes of tasks differ."""
    from scipy.stats import multivariate_normal

    rows = rows_of(8, binary=True)
    keep = np.random.default_rng(0).random(len(rows.y)) < 0.7
    rows = TrainingRows(*(part[keep] for part in rows))
    learner = ResidualGP(1, mean="linear").double()
    residuals = rows.y - learner.global_mean.fit(rows)
    learner.fit_residuals(rows, residuals)

    def likelihood(**changes):
        names = ("level", "amplitude", "noise")
        level, amplitude, noise = (changes.get(name, 1) * getattr(learner, name).item() for name in names)
        total = 0.0
        for task in range(30):
            of = rows.tasks == task
            kernel = level + amplitude * Tanimoto()(rows.x[of].astype(float)) + noise * np.eye(of.sum())
            total += multivariate_normal(cov=kernel).logpdf(residuals[of, 0])
        return total

    best = likelihood()
    for name in ("level", "amplitude", "noise"):
        assert max(likelihood(**{name: factor}) for factor in (0.8, 1.25)) < best + 0.01


def test_the_priors_of_lengths_and_slopes_are_those_of_the_docstring():
    """At the maximum, the slope of the log density by each logarithm is that of its prior."""
    from scipy.stats import multivariate_normal

    rows = rows_of(9, n_tasks=12, size=6, d=3)
    learner = ResidualGP(1, mean="linear").double()
    residuals = rows.y - learner.global_mean.fit(rows)
    learner.fit_residuals(rows, residuals)
    scale = np.sqrt(np.square(residuals).mean())
    found = {name: getattr(learner, name)[0].numpy() for name in ("lengths", "linear")}

    def density(**moves):
        lengths, linear = (found[name] * np.exp(moves.get(name, np.zeros(3))) for name in found)
        total = 0.0
        for task in range(12):
            x = rows.x[rows.tasks == task].astype(float)
            squares = np.square((x[:, None] - x[None]) / lengths).sum(-1)
            kernel = learner.level.item() + learner.amplitude.item() * np.exp(-squares / 2)
            kernel += (x * linear) @ x.T + learner.noise.item() * np.eye(len(x))
            total += multivariate_normal(cov=kernel).logpdf(residuals[rows.tasks == task, 0])
        return total

    for number, step in enumerate(1e-4 * np.eye(3)):
        of_length, of_slope = ((density(**{name: step}) - density(**{name: -step})) / 2e-4 for name in found)
        log_length, log_slope = np.log(found["lengths"][number]), np.log(found["linear"][number] / scale**2)
        assert of_length == pytest.approx((log_length - np.log(3) / 2) / 2.0**2, abs=2e-3)
        assert of_slope == pytest.approx((log_slope + 6) / 3.0**2, abs=2e-3)


@pytest.mark.parametrize(("base", "method"), [(FittedBaseline, "fit_rows"), (PooledMean, "fit_residuals")])
def test_a_base_asks_for_its_fit(base, method):
    with pytest.raises(TypeError, match=rf"abstract .*\b{method}\b"):
        base(1)


def test_residual_gp_finds_what_varies():
    """Tasks that differ by a smooth function of input 1, and by level."""
    rng = np.random.default_rng(0)
    tasks = np.repeat(np.arange(60), 15)
    x = rng.uniform(-2, 2, (len(tasks), 2)).astype(np.float32)
    phase, level = rng.uniform(0, 6, 60)[tasks], rng.standard_normal(60)[tasks]
    y = (np.sin(2 * x[:, 0] + phase) + level + 0.1 * rng.standard_normal(len(tasks)))[:, None]
    learner = ResidualGP(1, mean="linear").double()
    learner.fit_rows(TrainingRows(x, y, tasks))
    assert learner.lengths[0, 0] < 2 < 5 < learner.lengths[0, 1]
    assert 0.005 < learner.noise.item() < 0.03
    support = Examples(torch.tensor(x[:12]).double(), torch.tensor(y[:12]))
    error = learner(support)(torch.tensor(x[12:15]).double()).numpy() - y[12:15]
    assert np.abs(error).max() < 0.6


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
def test_without_support_it_is_the_mean(learner):
    rows = rows_of(9)
    learner = learner.double()
    learner.fit_rows(rows)
    found = learner(EMPTY)(torch.tensor(rows.x[:5]).double())
    mean = learner.trees.predict(rows.x[:5]) if isinstance(learner, Boosting) else learner.mean(rows.x[:5])
    np.testing.assert_allclose(found, mean, rtol=1e-12)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
def test_what_is_fitted_is_kept_with_the_weights(learner):
    rows = rows_of(10)
    learner.float().fit_rows(rows)
    again = type(learner)(1, **({} if isinstance(learner, Boosting) else {"mean": "linear"}))
    if isinstance(learner, Shrunken) and isinstance(learner.global_mean, BoostedTrees):
        again = Shrunken(1)
    Objective(again).load_state_dict(Objective(learner).state_dict())
    support = examples(rows, slice(0, 4))
    support, new = Examples(support.x.float(), support.y.float()), torch.tensor(rows.x[50:60])
    assert torch.equal(learner(support)(new), again(support)(new))


def test_wrong_settings_and_targets_are_refused():
    with pytest.raises(MetaLensError, match="mean must be one of boosting, linear, lightgbm, catboost"):
        Shrunken(1, mean="forest")
    with pytest.raises(MetaLensError, match="kernel must be one of auto, tanimoto, rbf, got 'linear'"):
        ResidualGP(1, kernel="linear")
    with pytest.raises(MetaLensError, match="Boosting: learning_rate must be above 0"):
        Boosting(1, learning_rate=0.0)
    with pytest.raises(MetaLensError, match="max_leaf_nodes must be at least 2, got 1"):
        Boosting(1, max_leaf_nodes=1)
    with pytest.raises(MetaLensError, match="Boosting predicts numbers, got classes"):
        Boosting(2).adapt(Examples(torch.zeros(3, 4), torch.arange(3)))
    with pytest.raises(MetaLensError, match="Boosting is not trained; give it to fit first"):
        Boosting(1).adapt(Examples(torch.zeros(3, 4), torch.zeros(3, 1)))


def test_all_rows_of_a_table_are_used_once():
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"unit": np.repeat(np.arange(20), 15), "a": rng.integers(0, 2, 300)})
    frame["y"] = rng.integers(0, 2, 300).astype(float)  # many equal rows, which all count
    columns = {"task": "unit", "target": "y", "kind": "regression", "duplicates": "allow"}
    tasks = TableTasks(frame, **columns, k_shot=3, n_query=4)
    found = tasks.examples_by_task(100)
    assert set(found) == set(tasks.task_names)
    assert {len(examples.y) for examples in found.values()} == {15}
    assert list(tasks.examples_by_task(3)) == [tasks.task_name(i) for i in range(3)]
    learner = Shrunken(1, mean="linear")
    learner.prepare(tasks)
    assert 0.4 < learner.noise.item() < 1.5
