"""The study of what relations are worth: its Gaussian process against the joint one, and its tables."""

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import MultiTaskGP, TableTasks
from tools.relations import cell
from tools.relations.bank import Bank, Episode, Rows, Settings
from tools.relations.page import figure, tables
from tools.tables.problems import Problem

PROBLEM = Problem(name="curves", file="curves.csv", task="curve", target="y", about="made up")


def curves(n=14, rows=14, seed=0):
    """Sums of two hidden curves."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, rows))
    a, b = rng.normal(size=(2, n, 1))
    y = a * np.sin(2 * x) + b * np.cos(3 * x) + 0.05 * rng.normal(size=(n, rows))
    names = np.array([f"c{number:02d}" for number in range(n)]).repeat(rows)
    return pd.DataFrame({"curve": names, "x": x.ravel(), "y": y.ravel()})


@pytest.fixture(scope="module")
def known():
    tasks = TableTasks(
        curves(), "train", task="curve", target="y", splits=(1.0, 0.0, 0.0), k_shot=4, n_query=4
    )
    process = MultiTaskGP(1, relations="equal", n_tasks=20)
    process.prepare(tasks)
    return Bank(process, tasks), tasks


def rows_of(n, seed):
    rng = np.random.default_rng(seed)
    return Rows(rng.normal(size=(n, 1)), rng.normal(size=n))


def test_functions_of_known_tasks_are_their_posterior_means(known):
    bank, tasks = known
    x, y = next(iter(tasks.examples_by_task(14).values()))
    new = np.linspace(-1, 1, 5)[:, None]
    prediction = bank.process.predict(
        bank.process.adapt(type(tasks[0].support)(x, y)), torch.from_numpy(new).float()
    )
    center, spread = bank.process.units[0].tolist()
    expected = (prediction[:, 0].numpy() - center) / spread - bank.mean(new)
    np.testing.assert_allclose(bank.functions(new)[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("settings", [Settings(0.0, 1.0), Settings(1.0, 0.3), Settings(3.0, 0.03)])
def test_predictions_are_those_of_the_joint_process(known, settings):
    bank, _ = known
    support, x = rows_of(5, 1), rows_of(7, 2).x
    both = np.concatenate([support.x, x])
    functions = bank.functions(both)
    covariance = settings.related / functions.shape[1] * functions @ functions.T
    covariance = covariance + settings.own * bank.own(both, both)
    gain = covariance[5:, :5] @ np.linalg.inv(covariance[:5, :5] + bank.noise * np.eye(5))
    center, spread = bank.process.units[0].double().tolist()
    expected = center + spread * (bank.mean(x) + gain @ bank.residuals(support))
    found = Episode(bank, support, rows_of(9, 3), x).predict(settings)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_only_the_bound_sees_the_answers(known):
    bank, _ = known
    support, x = rows_of(5, 1), rows_of(7, 2).x
    one, other = (Episode(bank, support, rows_of(9, seed), x) for seed in (3, 4))
    settings = Settings(1.0, 0.3)
    np.testing.assert_array_equal(one.predict(settings), other.predict(settings))
    assert np.abs(one.predict(settings, bound=True) - other.predict(settings, bound=True)).max() > 1e-3


@pytest.mark.slow
def test_relations_help_where_tasks_are_sums_of_others(monkeypatch):
    monkeypatch.setattr(cell, "load", lambda problem: curves(60))
    rows = cell.measure(PROBLEM, 4, 0, 0)
    means = rows.groupby("arm").skill.mean()
    assert rows.groupby("arm").task.nunique().eq(12).all()
    assert means["learned"] > means["equal"] + 0.05
    assert means["regression"] > means["tuned"] + 0.05
    assert means["shuffled"] < means["regression"]


def test_tables_and_figure():
    rng = np.random.default_rng(0)
    rows = [("kiba", seed, f"t{task}", arm, rng.normal(0.1, 0.01) + (arm == "learned"))
            for seed in (1, 2) for task in range(8) for arm in cell.ARMS]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["table", "seed", "task", "arm", "skill"])
    skills, differences = tables(frame, {"kiba": 16}).split("\n\n")
    assert skills.splitlines()[2].startswith("| kiba | 8 | 16 | 0.1")
    assert differences.splitlines()[2].startswith("| kiba | **+")
    assert [text.get_text() for text in figure(frame).axes[0].get_yticklabels()] == ["kiba"]
