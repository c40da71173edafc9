"""The mixed model against statsmodels, and against direct formulas in NumPy."""

import warnings

import numpy as np
import pytest
import torch
from statsmodels.regression.mixed_linear_model import MixedLM

from metalens import Examples, MetaLensError, MixedModel, Objective, Task, TaskDistribution, fit
from metalens.learners.baselines.reml import MixedModelMoments, independent_columns


class Groups(TaskDistribution):
    """Groups of given rows, each in every draw: the first `k` are the support."""

    def __init__(self, x, y, tasks, k=1):
        super().__init__()
        self.x, self.y, self.tasks, self.k = torch.tensor(x), torch.tensor(y), tasks, k

    def __getitem__(self, index):
        rows = torch.tensor(np.flatnonzero(self.tasks == index % (self.tasks.max() + 1)))
        parts = rows[: self.k], rows[self.k :]
        return Task(*(Examples(self.x[part], self.y[part]) for part in parts))

    def task_name(self, index):
        return str(index % (self.tasks.max() + 1))


def drawn(seed=0, n_tasks=40, d=3, sizes=(1, 12)):
    """Rows of groups whose level and slope of the first input vary together."""
    rng = np.random.default_rng(seed)
    tasks = np.repeat(np.arange(n_tasks), rng.integers(*sizes, n_tasks, endpoint=True))
    x = rng.standard_normal((len(tasks), d)) + 0.5 * rng.standard_normal((n_tasks, d))[tasks]
    effects = rng.standard_normal((n_tasks, 2)) @ np.array([[0.8, 0.3], [0.0, 0.5]])
    y = 2 + x @ np.linspace(1, -1, d) + effects[tasks, 0] + effects[tasks, 1] * x[:, 0]
    return x, (y + 0.4 * rng.standard_normal(len(y)))[:, None], tasks


def by_statsmodels(x, y, tasks, random):
    """What statsmodels fits, with random effects of columns of [1, x]."""
    design = np.column_stack([np.ones(len(x)), x])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MixedLM(y[:, 0], design, groups=tasks, exog_re=design[:, random]).fit(
            reml=True, method=["bfgs"]
        )


def trained(x, y, tasks, **settings):
    mixed = MixedModel(y.shape[1], **settings).double()
    mixed.prepare(Groups(x, y, tasks))
    return mixed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slopes", ["none", "auto"])
def test_it_is_that_of_statsmodels(seed, slopes):
    x, y, tasks = drawn(seed)
    mixed = trained(x, y, tasks, slopes=slopes)
    assert mixed.effects.tolist() == ([0] if slopes == "none" else [0, 1])
    expected = by_statsmodels(x, y, tasks, mixed.effects.tolist())
    np.testing.assert_allclose(mixed.coefficients[:, 0], expected.fe_params, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mixed.covariances[0], expected.cov_re, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(mixed.noise.item(), expected.scale, rtol=1e-3)


@pytest.mark.parametrize("slopes", ["none", "auto"])
def test_predictions_on_known_tasks_are_those_of_statsmodels(slopes):
    """With the variances of statsmodels, the prediction of a training task is its own random effect."""
    x, y, tasks = drawn()
    mixed = trained(x, y, tasks, slopes=slopes)
    columns = mixed.effects.tolist()
    known = by_statsmodels(x, y, tasks, columns)
    mixed.coefficients = torch.tensor(known.fe_params)[:, None]
    mixed.covariances, mixed.noise = torch.tensor(known.cov_re)[None], torch.tensor([known.scale])
    design = np.column_stack([np.ones(len(x)), x])
    for task in range(10):
        rows = tasks == task
        model = mixed(Examples(torch.tensor(x[rows]), torch.tensor(y[rows])))
        effects = np.asarray(known.random_effects[task])
        expected = design @ known.fe_params + design[:, columns] @ effects
        np.testing.assert_allclose(model(torch.tensor(x))[:, 0], expected, rtol=1e-9, atol=1e-9)


def test_predictions_and_variances_are_the_formula():
    x, y, tasks = drawn(1)
    mixed = trained(x, y, tasks)
    beta, (d,), noise = mixed.coefficients.numpy()[:, 0], mixed.covariances.numpy(), mixed.noise.item()
    rng = np.random.default_rng(5)
    sx, sy, qx = rng.standard_normal((4, 3)), rng.standard_normal((4, 1)), rng.standard_normal((6, 3))
    zs, zq = (np.column_stack([np.ones(len(part)), part[:, 0]]) for part in (sx, qx))
    gain = zq @ d @ zs.T @ np.linalg.inv(zs @ d @ zs.T + noise * np.eye(4))
    mean = beta[0] + qx @ beta[1:] + gain @ (sy[:, 0] - beta[0] - sx @ beta[1:])
    variance = np.diag(zq @ d @ zq.T - gain @ zs @ d @ zq.T) + noise
    state = mixed.adapt(Examples(torch.tensor(sx), torch.tensor(sy)))
    found_mean, found_variance = mixed.predict_distribution(state, torch.tensor(qx))
    np.testing.assert_allclose(found_mean[:, 0], mean, rtol=1e-10)
    np.testing.assert_allclose(found_variance[:, 0], variance, rtol=1e-10)
    torch.testing.assert_close(found_mean, mixed.predict(state, torch.tensor(qx)))


def test_without_support_it_is_the_population():
    x, y, tasks = drawn()
    mixed = trained(x, y, tasks)
    model = mixed(Examples(torch.zeros(0, 3).double(), torch.zeros(0, 1).double()))
    expected = np.column_stack([np.ones(5), x[:5]]) @ mixed.coefficients.numpy()
    np.testing.assert_allclose(model(torch.tensor(x[:5])), expected)
    _, variance = mixed.predict_distribution(model.state, torch.zeros(1, 3).double())
    np.testing.assert_allclose(variance.item(), (mixed.covariances[0, 0, 0] + mixed.noise).item())


def test_the_restricted_likelihood_is_its_formula():
    """Up to a constant, on every D: log |V| + log |X^T V^-1 X| + r^T V^-1 r."""
    x, y, tasks = drawn(2, n_tasks=6)
    design = np.column_stack([np.ones(len(x)), x])
    moments = MixedModelMoments.of(design, design[:, :2], y[:, 0], tasks)

    def direct(covariance, noise):
        same = tasks[:, None] == tasks
        v = same * (design[:, :2] @ covariance @ design[:, :2].T) + noise * np.eye(len(x))
        inverse = np.linalg.inv(v)
        beta = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ y[:, 0])
        squares = (y[:, 0] - design @ beta) @ inverse @ (y[:, 0] - design @ beta)
        logdet = np.linalg.slogdet(v)[1] + np.linalg.slogdet(design.T @ inverse @ design)[1]
        return logdet + (len(x) - 4) * np.log(squares)  # the noise profiled out, up to a constant

    points = [(np.eye(2), 1.0), (np.array([[2.0, 0.5], [0.5, 0.2]]), 0.3), (np.diag([1.0, 0.0]), 0.7)]
    differences = [moments.deviance(*point) - direct(*point) for point in points]
    np.testing.assert_allclose(differences, differences[0], rtol=1e-9)


def test_slopes_are_those_that_vary():
    x, y, tasks = drawn(3, n_tasks=60, d=5)
    between = np.random.default_rng(0).standard_normal(60)[tasks]
    x = np.column_stack([x, between])  # constant within tasks: no slope can be told from a level
    assert trained(x, y, tasks).effects.tolist() == [0, 1]
    everything = trained(x, y, tasks, slopes="all")
    assert set(everything.effects.tolist()) <= {0, 1, 2, 3, 4, 5}
    assert {0, 1} <= set(everything.effects.tolist())


def test_more_than_six_effects_are_uncorrelated():
    x, y, tasks = drawn(4, d=7, n_tasks=30)
    covariance = trained(x, y, tasks, slopes="all").covariances[0]
    assert torch.equal(covariance, covariance.diagonal().diag())


def test_no_slopes_are_looked_for_among_many_inputs():
    x, y, tasks = drawn(4, d=65, n_tasks=40)
    assert trained(x, y, tasks).effects.tolist() == [0]


def test_targets_have_models_of_their_own():
    x, y, tasks = drawn(5)
    other = np.random.default_rng(0).standard_normal(y.shape) + x[:, 1:2]
    both = trained(x, np.column_stack([y, other]), tasks)
    support, new = slice(0, 4), torch.tensor(x[10:15])
    found = both(Examples(torch.tensor(x[support]), torch.tensor(np.column_stack([y, other])[support])))(new)
    for output, alone in enumerate((y, other)):
        one = trained(x, alone, tasks)(Examples(torch.tensor(x[support]), torch.tensor(alone[support])))
        torch.testing.assert_close(found[:, output], one(new)[:, 0], rtol=1e-7, atol=1e-9)


def test_collinear_and_constant_inputs_do_not_matter():
    x, y, tasks = drawn(6)
    more = np.column_stack([x, np.full(len(x), 7.0), 3 * x[:, 1], x[:, 0] - x[:, 2]])
    assert len(independent_columns(more)) == 3
    support, new = slice(0, 5), slice(20, 30)
    one, other = (
        trained(inputs, y, tasks, slopes="none")(
            Examples(torch.tensor(inputs[support]), torch.tensor(y[support]))
        )(torch.tensor(inputs[new]))
        for inputs in (x, more)
    )
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_tasks_that_do_not_differ_are_predicted_by_the_population():
    rng = np.random.default_rng(0)
    x, tasks = rng.standard_normal((200, 1)), np.repeat(np.arange(20), 10)
    noise = rng.standard_normal((20, 10))
    y = x + (noise - noise.mean(1, keepdims=True)).reshape(-1, 1)  # every task has the same level
    mixed = trained(x, y, tasks, slopes="none")
    assert mixed.covariances.abs().max() < 1e-4


@pytest.mark.parametrize("level", [0.0, 1e6])
def test_targets_without_noise_are_predicted_exactly(level):
    x, _, tasks = drawn(7)
    y = level + x[:, :1] + np.sin(tasks)[:, None]
    mixed = trained(x, y, tasks, slopes="none")
    model = mixed(Examples(torch.zeros(1, 3).double(), torch.full((1, 1), level + 0.9, dtype=torch.float64)))
    np.testing.assert_allclose(model(torch.tensor(x[:4])) - level, x[:4, :1] + 0.9, atol=1e-4)


def test_what_cannot_be_told_apart_is_refused():
    x, y, tasks = drawn(n_tasks=4, d=3, sizes=(2, 2))
    wide = np.random.default_rng(0).standard_normal((8, 9))
    with pytest.raises(MetaLensError, match=r"has 7 independent inputs and needs more examples .*, got 8"):
        trained(wide, y, tasks)
    with pytest.raises(MetaLensError, match=r"needs 2 training tasks, .*, got 1 with at most 8"):
        trained(x, y, np.zeros(8, int))
    with pytest.raises(MetaLensError, match="got 8 with at most 1"):
        trained(x, y, np.arange(8))
    with pytest.raises(MetaLensError, match="slopes must be one of auto, all, none, got 'some'"):
        MixedModel(1, slopes="some")
    with pytest.raises(MetaLensError, match="n_tasks must be at least 1, got 0"):
        MixedModel(1, n_tasks=0)


def test_it_is_kept_with_the_weights(tmp_path):
    from safetensors.torch import load_file

    x, y, tasks = drawn(8)
    objective = Objective(MixedModel(1).double())
    fit(objective, Groups(x, y, tasks), steps=1, meta_batch_size=1, out=tmp_path)
    again = Objective(MixedModel(1).double())
    with pytest.raises(MetaLensError, match="MixedModel is not trained; give it to fit first"):
        again.learner(Examples(torch.tensor(x[:3]), torch.tensor(y[:3])))
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    support, new = Examples(torch.tensor(x[:3]), torch.tensor(y[:3])), torch.tensor(x)
    assert torch.equal(objective.learner(support)(new), again.learner(support)(new))


def test_draws_of_a_task_are_counted_once():
    x, y, tasks = drawn(9)
    once, often = (MixedModel(1, n_tasks=n).double() for n in (40, 160))
    for mixed in (once, often):
        mixed.prepare(Groups(x, y, tasks))
    torch.testing.assert_close(once.covariances, often.covariances)
    torch.testing.assert_close(once.noise, often.noise)
