"""Tasks and their distributions, and the objective of a batch of them."""

import numpy as np
import pytest
import torch
from torch import nn

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    ClusteredSinusoid,
    Examples,
    Harmonic,
    MAMLPlusPlus,
    MetaLensError,
    Network,
    Objective,
    Regularizer,
    Sinusoid,
    Task,
    TaskDistribution,
    TRLearner,
    mlp,
    stack_tasks,
)
from metalens.data.interleaved import Interleaved

FAMILIES = [Sinusoid, Harmonic, ClusteredSinusoid]


def equal(a: Task, b: Task) -> bool:
    return all(
        torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", [None, 7])
def test_bulk_equals_single_in_any_order(family, pool):
    indices = [3, 700, 5, 1023, 3, 512]
    bulk = family(n_train_tasks=pool).batch(indices)
    assert equal(bulk, stack_tasks([family(n_train_tasks=pool)[i] for i in indices]))


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_and_seeds_share_no_task(family):
    firsts = {
        (split, seed): family(split, seed=seed)[0].query.y[0].item()
        for split in ("train", "val", "test")
        for seed in (0, 1)
    }
    assert len(set(firsts.values())) == len(firsts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pool_repeats_all_its_tasks_in_a_new_order_each_round(family):
    tasks = family(n_train_tasks=50)
    rounds = [tasks.batch(range(50 * r, 50 * r + 50)).query.x[:, 0, 0].tolist() for r in range(3)]
    assert len(set(rounds[0])) == 50
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(rounds[2])
    assert rounds[0] != rounds[1] != rounds[2]


def test_sinusoid_is_a_sinusoid():
    """Least squares on sin x and cos x leaves nothing, and amplitudes and phases fill their ranges."""
    x, y = Sinusoid("test", n_query=30).batch(range(2000)).query
    design = torch.stack([x.sin(), x.cos()], dim=-1).squeeze(2).double().numpy()
    amplitudes, phases = [], []
    for columns, values in zip(design, y.double().numpy(), strict=True):
        (a, b), *_ = np.linalg.lstsq(columns, values[:, 0], rcond=None)
        assert np.abs(columns @ [a, b] - values[:, 0]).max() < 1e-4
        amplitudes.append(np.hypot(a, b))
        phases.append(np.arctan2(-b, a))
    assert 0.1 <= min(amplitudes) < 0.2
    assert 4.9 < max(amplitudes) <= 5.0
    assert abs(np.mean(amplitudes) - 2.55) < 0.1
    assert min(phases) >= 0
    assert max(phases) <= np.pi + 1e-3
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5


def test_harmonic_has_its_moments():
    x, y = Harmonic("test", n_query=20).batch(range(4000)).query
    assert abs(y.var().item() - 1.0) < 0.1  # E[a1^2 sin^2] + E[a2^2 sin^2]
    assert abs(x.mean(1).std().item() - (16 / 3 + 1 / 20) ** 0.5) < 0.1


def test_noise_is_added_and_dense_queries_leave_the_support_as_it_was():
    clean, noisy = Sinusoid("test").batch(range(500)), Sinusoid("test", noise=0.5).batch(range(500))
    assert torch.equal(clean.query.x, noisy.query.x)
    assert abs((noisy.query.y - clean.query.y).std().item() - 0.5) < 0.02
    assert torch.equal(Sinusoid("test", n_query=200)[3].support.y, Sinusoid("test")[3].support.y)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k_shot": 0}, "k_shot must be at least 1, got 0"),
        ({"n_query": 0}, "n_query must be at least 1, got 0"),
        ({"noise": -1.0}, "noise must be 0 or more"),
        ({"n_train_tasks": 0}, "n_train_tasks must be at least 1"),
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    for family in FAMILIES:
        with pytest.raises(MetaLensError, match=words):
            family(**settings)


class Draws(TaskDistribution):
    """Draws of two tasks with examples 0, 0, 1, 2, 3, of which each draw lacks one."""

    def __getitem__(self, index):
        values = torch.tensor([0.0, 0, 1, 2, 3])[torch.arange(5) != 1 + index % 4, None]
        values = values + 10 * (index % 2)
        return Task(Examples(values[:1], values[:1]), Examples(values[1:], values[1:]))

    def task_name(self, index):
        return "ab"[index % 2]


def test_examples_of_a_task_are_collected_from_its_draws_each_once():
    found = Draws().examples_by_task(8)
    assert {name: sorted(part.y.flatten().tolist()) for name, part in found.items()} == {
        "a": [0, 0, 1, 2, 3],
        "b": [10, 10, 11, 12, 13],
    }
    assert all(torch.equal(part.x, part.y) for part in found.values())
    assert list(Interleaved(Draws(), 1, 2).examples_by_task(4)) == ["b"]


def test_tasks_of_different_shapes_are_not_stacked():
    with pytest.raises(MetaLensError, match=r"support.x comes in \[\(5, 1\), \(6, 1\)\]"):
        stack_tasks([Sinusoid(k_shot=5)[0], Sinusoid(k_shot=6)[0]])
    with pytest.raises(MetaLensError, match="no tasks"):
        stack_tasks([])


class Replace(Regularizer):
    """Uses all three hooks."""

    def wrap_network(self, network):
        network.marked = True
        return network

    def transform_tasks(self, tasks):
        return Task(Examples(tasks.support.x, 0 * tasks.support.y), tasks.query)

    def loss_terms(self, adapted):
        return {"query": 3 * adapted.loss(adapted.query_predictions)}


def test_the_three_hooks_of_a_regularizer():
    learner = MAML(mlp())
    objective = Objective(learner, [Replace()])
    assert learner.network.marked
    tasks = Sinusoid().batch(range(3))
    changed = Task(Examples(tasks.support.x, 0 * tasks.support.y), tasks.query)
    terms = objective(tasks)
    assert terms.keys() == {"query"}
    torch.testing.assert_close(terms["query"], 3 * Objective(learner)(changed)["query"])


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("learner", [MAML(mlp()), ANIL(mlp()), MAMLPlusPlus(mlp(), inner_steps=2)])
def test_tasks_are_scored_in_one_go_where_nobody_asks_for_their_states(learner, chunk):
    tasks = Sinusoid().batch(range(5))
    one, other = (AdaptedTasks(learner, tasks, chunk=chunk) for _ in range(2))
    torch.testing.assert_close(one.last_outer_loss(), other.outer_loss)
    assert "states" not in vars(one)
    assert other.last_outer_losses() is other.outer_losses


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_the_loss_is_differentiated_by_inputs_too(batching):
    learner, tasks = MAML(mlp(), inner_steps=2).double(), Sinusoid().batch(range(3))
    tasks = tasks.map(lambda part: Examples(part.x.double(), part.y.double()))
    x = tasks.query.x.clone().requires_grad_()

    def loss(x):
        asked = Task(tasks.support, Examples(x, tasks.query.y))
        return AdaptedTasks(learner, asked, batching).last_outer_loss()

    (by_graph,) = torch.autograd.grad(loss(x), x)
    by_transform = torch.func.grad(loss)(x.detach())
    models = [learner(Examples(*(part[i] for part in tasks.support))) for i in range(3)]
    direct = sum((model(x[i]) - tasks.query.y[i]).square().mean() for i, model in enumerate(models)) / 3
    (expected,) = torch.autograd.grad(direct, x)
    torch.testing.assert_close(by_graph, expected)
    torch.testing.assert_close(by_transform, expected)


def test_two_terms_of_one_name_are_refused():
    objective = Objective(MAML(mlp()), [TRLearner(), TRLearner()])
    with pytest.raises(MetaLensError, match="Two regularizers return a term named trlearner"):
        objective(Sinusoid().batch(range(3)))


def test_an_empty_backbone_is_refused():
    with pytest.raises(MetaLensError, match=r"empty nn\.Sequential; give nn\.Identity"):
        Network(nn.Sequential(), nn.Linear(1, 1), n_features=1, n_outputs=1)
