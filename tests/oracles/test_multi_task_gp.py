"""MultiTaskGP against scikit-learn, and direct sums from its formulas."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from metalens import (
    Examples,
    MeanPredictor,
    MetaLensError,
    MultiTaskGP,
    Objective,
    TableTasks,
    Task,
    TaskDistribution,
    evaluate,
    fit,
)
from metalens.learners.baselines.multi_task_gp import _points
from metalens.learners.baselines.task_covariance import Related, TaskRows, fit_kernels, learn, start_kernels

INPUTS = [f"x{i}" for i in range(4)]


def table(binary, n_tasks=24, seed=0):
    """Tasks whose functions are mixtures of two hidden ones, on shared inputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 4))
    x = (x > 0).astype(float) if binary else x
    hidden = np.sin(2 * x @ rng.standard_normal((4, 2)))
    rows = [
        (f"t{task:02d}", *x[i], 5 + 3 * hidden[i] @ mixture)
        for task, mixture in enumerate(rng.standard_normal((n_tasks, 2)))
        for i in rng.permutation(40)[:20]
    ]
    return pd.DataFrame(rows, columns=["task", *INPUTS, "y"])


def tasks_of(split, binary=False, **changes):
    frame = table(binary)
    settings = {"task": "task", "inputs": frame[INPUTS].to_numpy(), "duplicates": "allow", "target": "y"}
    return TableTasks(
        frame, split, **(settings | {"k_shot": 5, "n_query": 5, "standardize": "none"} | changes)
    )


@pytest.fixture(scope="module", params=[False, True], ids=["real", "binary"])
def trained(request):
    learner = MultiTaskGP(n_outputs=1, n_tasks=80).double()
    learner.prepare(tasks_of("train", request.param))
    return learner, tasks_of("test", request.param)


def kernel(values, a, b):
    """One of the two kernels, entry by entry."""
    values = np.exp(values)
    if len(values) == 1:
        union = max((a + b > 0).sum(), 1)
        return values[0] * (a * b).sum() / union
    scales, slopes = values[1:5], values[5:]
    return values[0] * np.exp(-(((a - b) / scales) ** 2).sum() / 2) + (slopes * a * b).sum()


def kernels(values, x, points):
    return np.array([[kernel(values, a, b) for b in points] for a in x])


def by_hand(learner, support, new):
    """Mean and variance of new targets, by the inverse of the whole covariance of support and new inputs."""
    buffers = {name: value.numpy() for name, value in learner.named_buffers()}
    points, (level, noise) = buffers["points"], np.exp(buffers["level_and_noise"][0])
    center, spread = buffers["units"][0]
    x = np.concatenate([support.x.numpy(), new.numpy()])
    own, cross = (level + kernels(buffers["own"][0], x, other) for other in (x, points))
    mean = kernels(buffers["shared"][0], x, points) @ buffers["mean_weights"][0]
    covariance = own + cross @ buffers["weights"][0] @ cross.T
    s = len(support.x)
    inverse = np.linalg.inv(covariance[:s, :s] + noise * np.eye(s))
    residual = (support.y.numpy()[:, 0] - center) / spread - mean[:s]
    predicted = mean[s:] + covariance[s:, :s] @ inverse @ residual
    left = covariance[s:, s:] - covariance[s:, :s] @ inverse @ covariance[:s, s:]
    return center + spread * predicted, spread**2 * (left.diagonal() + noise)


def test_bits_have_the_kernel_of_tanimoto(trained):
    learner, tasks = trained
    assert (learner.own.shape[1] == 1) == bool(((tasks.inputs == 0) | (tasks.inputs == 1)).all())


@pytest.mark.parametrize("x", [[0.0, 0.5, 1.0], [0.0, -1.0, 1.0], [0.0, 1.0, 2.0]])
def test_other_numbers_than_bits_are_no_fingerprints(x):
    inputs = torch.tensor(x).repeat(4).unsqueeze(1)

    class Twelve(TaskDistribution):
        def __getitem__(self, index):
            both = Examples(inputs, inputs + index)
            return Task(both, both)

    learner = MultiTaskGP(n_outputs=1, n_tasks=3).double()
    learner.prepare(Twelve())
    assert learner.own.shape[1] == 3  # amplitude, length scale and slope


def test_it_learns_from_the_rows_of_every_training_task(monkeypatch):
    seen = []

    def spy(points, rows, *settings):
        seen.extend(rows)
        return learn(points, rows, *settings)

    monkeypatch.setattr("metalens.learners.baselines.multi_task_gp.learn", spy)
    tasks = tasks_of("train")
    learner = MultiTaskGP(n_outputs=1, n_tasks=40).double()
    learner.prepare(tasks)
    assert len(seen) == len(tasks.task_names)
    assert min(len(rows.y) for rows in seen) > 0


def test_the_likelihood_sees_other_rows_of_a_large_table_in_turn(monkeypatch):
    seen = []

    def spy(covariance, noise, y):
        seen.append(y)
        return covariance.sum() * noise.sum()

    monkeypatch.setattr("metalens.learners.baselines.task_covariance._negative_log_likelihood", spy)
    x, y = torch.zeros(1500, 1).double(), torch.arange(1500).double()
    task = torch.arange(100).repeat_interleave(15)
    fit_kernels(x, y, task, start_kernels(1, tanimoto=False), np.random.default_rng(0))
    parts = {tuple(of_step.tolist()) for of_step in seen}
    assert len(seen) == 60
    assert len(parts) == 7
    assert {len(part) for part in parts} == {600}


@pytest.mark.parametrize("n_support", [5, 1, 0])
def test_conditions_on_the_support(trained, n_support):
    learner, tasks = trained
    support, query, _ = tasks[0]
    few = Examples(*(part[:n_support].double() for part in support))
    state = learner.adapt(few)
    mean, variance = learner.predict_distribution(state, query.x.double())
    expected = by_hand(learner, few, query.x.double())
    np.testing.assert_allclose(mean[:, 0], expected[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance[:, 0], expected[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(learner.predict(state, query.x.double()), mean)


def test_without_a_learned_covariance_it_is_the_process_of_scikit_learn(trained):
    learner, tasks = trained
    if learner.own.shape[1] == 1:
        pytest.skip("scikit-learn has no Tanimoto kernel")
    again = MultiTaskGP(n_outputs=1).double()
    again.load_state_dict(learner.state_dict())
    again.weights.zero_()
    again.mean_weights.zero_()
    (amplitude, *rest), (level, noise) = again.own[0].exp().tolist(), again.level_and_noise[0].exp().tolist()
    scales, slopes = np.array(rest[:4]), np.array(rest[4:])
    support, query, _ = tasks[1]
    center, spread = again.units[0].tolist()

    def features(x):  # the linear kernel as more inputs of its own
        return np.concatenate([x / scales, x * np.sqrt(slopes)], axis=1)

    class Part(DotProduct):
        def __call__(self, X, Y=None, eval_gradient=False):  # noqa: N803
            return super().__call__(X[:, 4:], None if Y is None else Y[:, 4:])

    class Smooth(RBF):
        def __call__(self, X, Y=None, eval_gradient=False):  # noqa: N803
            return super().__call__(X[:, :4], None if Y is None else Y[:, :4])

    prior = ConstantKernel(level) + ConstantKernel(amplitude) * Smooth(1.0) + Part(1e-9) + WhiteKernel(noise)
    process = GaussianProcessRegressor(prior, optimizer=None, alpha=0)  # pyright: ignore[reportArgumentType]
    process.fit(features(support.x.double().numpy()), (support.y[:, 0].double().numpy() - center) / spread)
    expected = center + spread * process.predict(features(query.x.double().numpy()))
    found = again(Examples(*(part.double() for part in support)))(query.x.double())
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_expectation_maximization_follows_the_formula():
    """One round, with every posterior written out; later rounds start from its covariance."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.standard_normal((6, 2)))
    kernels = start_kernels(2, tanimoto=False)
    places = ([0, 3, 5], [1, 4, 2, 4], [2, 0])  # one input was measured twice
    tasks = [TaskRows(np.array(part), rng.standard_normal(len(part))) for part in places]
    noise, strength = float(kernels.noise.exp()), 2.0
    prior, shared = (k(points, points).numpy() for k in (kernels.of_task, kernels.of_all))
    # What is shared, given all rows at once.
    places = np.concatenate([task.places for task in tasks])
    number = np.repeat([0, 1, 2], [3, 4, 2])
    same = number[:, None] == number
    joint = shared[np.ix_(places, places)] + same * prior[np.ix_(places, places)] + noise * np.eye(9)
    mean = shared[:, places] @ np.linalg.solve(joint, np.concatenate([task.y for task in tasks]))
    covariance = prior
    for _ in range(5):
        total = strength * prior
        for task in tasks:
            gain = covariance[:, task.places] @ np.linalg.inv(
                covariance[np.ix_(task.places, task.places)] + noise * np.eye(len(task.y))
            )
            u = gain @ (task.y - mean[task.places])
            total = total + np.outer(u, u) + covariance - gain @ covariance[task.places]
        covariance = total / (strength + 3)
    learned = learn(points, tasks, kernels, strength, "learned")
    np.testing.assert_allclose(learned.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(learned.covariance, covariance, rtol=1e-8)


def test_controls_have_the_own_kernel_and_the_shared_mean_or_none():
    train, test = tasks_of("train"), tasks_of("test")
    learners = {name: MultiTaskGP(n_outputs=1, n_tasks=40, relations=name) for name in get_args(Related)}
    for learner in learners.values():
        learner.prepare(train)
    learned, equal, alone = (learners[name] for name in ("learned", "equal", "none"))
    for name in ("own", "shared", "level_and_noise", "mean_weights"):
        torch.testing.assert_close(getattr(learned, name), getattr(equal, name))
    assert equal.mean_weights.abs().max() > 0
    assert alone.mean_weights.abs().max() == 0
    assert max(equal.weights.abs().max(), alone.weights.abs().max()) < 1e-9
    torch.testing.assert_close(alone.shared[0], start_kernels(4, tanimoto=False).shared)  # has no part
    mse = {
        name: evaluate(learner, test, n_tasks=8).query("metric == 'mse'").value.mean()
        for name, learner in learners.items()
    }
    assert mse["learned"] < 0.8 * min(mse["equal"], mse["none"])


def test_hyperparameters_tell_what_is_shared_from_what_is_own():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((200, 1)))
    task = torch.arange(20).repeat_interleave(10)
    levels = torch.from_numpy(rng.standard_normal(20))[task]
    noise = 0.1 * torch.from_numpy(rng.standard_normal(200))
    start = start_kernels(1, tanimoto=False)
    alike = fit_kernels(x, torch.sin(3 * x[:, 0]) + noise, task, start, np.random.default_rng(0))
    apart = fit_kernels(x, levels + noise, task, start, np.random.default_rng(0))
    assert alike.level < apart.level - 1
    assert alike.shared[0] > apart.shared[0] + 1
    assert max(alike.noise.exp(), apart.noise.exp()) < 0.05


def test_uses_related_tasks_and_is_kept_with_the_weights(tmp_path):
    train, test = tasks_of("train"), tasks_of("test")
    learner = MultiTaskGP(n_outputs=1, n_tasks=120)
    fit(Objective(learner), train, steps=1, meta_batch_size=2, out=tmp_path)
    mse = evaluate(learner, test, n_tasks=8).query("metric == 'mse'").value
    plain = evaluate(MeanPredictor(n_outputs=1), test, n_tasks=8).query("metric == 'mse'").value
    assert mse.mean() < 0.6 * plain.mean()
    again = Objective(MultiTaskGP(n_outputs=1))
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert evaluate(again.learner, test, n_tasks=8).query("metric == 'mse'").value.tolist() == mse.tolist()


@pytest.mark.slow
def test_classes_are_columns():
    frame = table(False, 40).assign(y=lambda rows: np.where(rows.y > 5, "yes", "no"))
    settings = {"task": "task", "target": "y", "inputs": frame[INPUTS].to_numpy(), "duplicates": "allow"}
    train, test = (TableTasks(frame, split, **settings, k_shot=8, n_query=8) for split in ("train", "test"))
    learner = MultiTaskGP(n_outputs=2, n_tasks=60)
    learner.prepare(train)
    assert learner.weights.shape == (2, 40, 40)
    scores = [evaluate(each, test, n_tasks=20).query("metric == 'accuracy'").value.mean()
              for each in (learner, MeanPredictor(n_outputs=2))]  # fmt: skip
    assert scores[0] > scores[1] + 0.2


def test_points_are_those_with_most_rows():
    x = torch.tensor([[1.0], [2.0], [2.0], [3.0], [3.0], [3.0]])
    points, places = _points(x, 2)
    assert points.tolist() == [[3.0], [2.0]]
    assert places.tolist() == [-1, 1, 1, 0, 0, 0]
    learner = MultiTaskGP(n_outputs=1, n_tasks=20, n_points=10)
    learner.prepare(tasks_of("train"))
    assert (learner.points.shape, learner.weights.shape) == ((10, 4), (1, 10, 10))


def test_a_single_task_is_enough():
    train = tasks_of("train", n_train_tasks=1)
    learner = MultiTaskGP(n_outputs=1, n_tasks=9)
    learner.prepare(train)
    mse = evaluate(learner, train, n_tasks=20).query("metric == 'mse'").value.mean()
    assert mse < evaluate(MeanPredictor(n_outputs=1), train, n_tasks=20).query("metric == 'mse'").value.mean()


def test_before_training_it_is_the_mean():
    learner = MultiTaskGP(n_outputs=2)
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    torch.testing.assert_close(learner(Examples(x, y))(x[:1]), y.mean(0, keepdim=True))
    assert learner(Examples(x[:0], y[:0]))(x).tolist() == [[0.0, 0.0]] * 4
    with pytest.raises(MetaLensError, match="no variance before training"):
        learner.predict_distribution(learner.adapt(Examples(x, y)), x)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel": "linear"}, "kernel must be auto, tanimoto or rbf, got 'linear'"),
        ({"relations": "true"}, "relations must be one of learned, equal, none, got 'true'"),
        ({"strength": 0.0}, "strength must be above 0"),
        ({"n_tasks": 0}, "n_tasks must be at least 1, got 0"),
        ({"n_points": 0}, "n_points must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        MultiTaskGP(n_outputs=1, **settings)
