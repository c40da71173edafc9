"""The number of steps that a task takes at test time, by a plain loop in Python."""

import math

import pytest
import torch
from catalogue import LEARNERS, N_WAY, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    Examples,
    MetaLensError,
    Network,
    Objective,
    Sinusoid,
    Task,
    evaluate,
    mlp,
)

STEPS, SHARE = 6, 0.34
GRADIENT_LEARNERS = [name for name, entry in LEARNERS.items() if entry.gradient_steps]


def tasks_of(kind):
    """Tasks with enough examples of every class, in an order that mixes classes; the first can be learned."""
    tasks = (classification_tasks if kind == "classification" else regression_tasks)("mlp")
    x, y = (torch.cat(parts, dim=1) for parts in zip(tasks.support, tasks.query, strict=True))
    order = torch.randperm(y.shape[1], generator=torch.Generator().manual_seed(5))
    if kind == "classification":
        x[:2, :, :N_WAY] += nn.functional.one_hot(y[:2], N_WAY)
    else:
        y = torch.tensor([0.0, 0.3, 1.0, 2.0]).view(-1, 1, 1) * y + x[..., :N_WAY]
    return Task(Examples(x[:, order], y[:, order]), tasks.query)


def support_of(tasks, number):
    return Examples(tasks.support.x[number], tasks.support.y[number])


def adaptive(name, share=SHARE):
    learner = LEARNERS[name].build(build_network("mlp"))
    learner.test_inner_steps, learner.test_held_out = STEPS, share
    return learner.double().eval()


def parts_by_hand(y, share):
    n = len(y)
    order = list(range(n)) if y.is_floating_point() else sorted(range(n), key=lambda i: (y[i].item(), i))
    n_held = max(1, int(share * n))
    held = [order[int((number + 0.5) * n / n_held)] for number in range(n_held)]
    return [i for i in order if i not in held], held


def loop(learner, support, share=SHARE):
    """Adapt to one part with a fixed number of steps, for every number; look at the other part."""
    kept, held = parts_by_hand(support.y, share)
    losses = []
    for steps in range(STEPS + 1):
        learner.test_held_out, learner.test_inner_steps = 0.0, steps
        model = learner(Examples(support.x[kept], support.y[kept]))
        losses.append(learner.loss(model(support.x[held]), support.y[held]).item())
    depth = losses.index(min(losses))
    learner.test_inner_steps = depth
    state = learner(support).state
    learner.test_held_out, learner.test_inner_steps = share, STEPS
    return depth, state


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("name", GRADIENT_LEARNERS)
def test_depth_is_that_of_a_plain_loop_for_every_gradient_learner(name, kind):
    if LEARNERS[name].classifier and kind == "regression":
        pytest.skip("a classifier")
    learner, tasks = adaptive(name), tasks_of(kind)
    for number in range(len(tasks.support.y)):
        support = support_of(tasks, number)
        depth, state = loop(learner, support)
        assert learner.depth(learner.encode(support.x), support.y) == depth
        torch.testing.assert_close(dict(learner(support).state), dict(state), rtol=1e-12, atol=1e-12)


def spread():
    """A learner and tasks whose depths differ: some begin to overfit early, some never do."""
    learner = ANIL(build_network("mlp"), inner_lr=0.1, test_inner_steps=STEPS, test_held_out=SHARE).double()
    return learner.eval(), tasks_of("regression")


@pytest.mark.parametrize("settings", [{"batching": "loop"}, {"batching": "vmap"}, {"chunk": 3}])
@pytest.mark.parametrize("grad", [True, False])
def test_every_way_of_mapping_gives_each_task_its_own_depth(settings, grad):
    learner, tasks = spread()
    expected = [loop(learner, support_of(tasks, number)) for number in range(4)]
    assert len({depth for depth, _ in expected}) > 1
    with torch.set_grad_enabled(grad):
        adapted = AdaptedTasks(learner, tasks, **settings)
        depths = adapted.map(learner.depth, adapted.support_encoding, tasks.support.y)
        states = adapted.states
    assert depths.tolist() == [depth for depth, _ in expected]
    for name, values in states.items():
        stacked = torch.stack([state[name] for _, state in expected])
        torch.testing.assert_close(values, stacked, rtol=1e-12, atol=1e-12)


def test_training_takes_the_fixed_number_of_steps():
    plain, other = (
        Objective(ANIL(build_network("mlp"), inner_steps=2, test_held_out=share)) for share in (0.0, 0.5)
    )
    tasks = tasks_of("regression")
    assert torch.equal(plain(tasks)["query"], other(tasks)["query"])


def test_held_out_are_equal_shares_of_all_classes():
    learner = ANIL(mlp(1, 5), test_held_out=0.4)
    y = torch.arange(5).repeat(5)
    kept, held = learner._parts(y)
    assert y[held].bincount().tolist() == [2] * 5
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(25))
    for counts in ([2, 3, 7, 2], [2, 2], [9, 2, 2, 2, 5]):
        y = torch.cat([torch.full((n,), number) for number, n in enumerate(counts)])
        for share in (0.01, 0.3, 0.5):
            kept, held = ANIL(mlp(1, 5), test_held_out=share)._parts(y)
            assert len(held) == max(1, math.floor(share * len(y)))
            assert set(y[kept].tolist()) == set(range(len(counts)))


def test_one_example_per_class_and_a_single_example_take_all_steps():
    learner = adaptive("ANIL")
    x = torch.randn(N_WAY, 5, dtype=torch.float64)
    assert learner.depth(learner.encode(x), torch.arange(N_WAY)) == STEPS
    one = torch.randn(1, N_WAY, dtype=torch.float64)
    assert learner.depth(learner.encode(x[:1]), one) == STEPS
    fixed = adaptive("ANIL", share=0.0)
    for support in (Examples(x, torch.arange(N_WAY)), Examples(x[:1], one)):
        torch.testing.assert_close(learner(support).state, fixed(support).state)


def test_divergence_is_never_chosen():
    learner = MAML(mlp(), inner_lr=1e6, test_inner_steps=5, test_held_out=0.3).eval()
    support = Sinusoid("test")[0].support
    assert learner.depth(support.x, support.y) == 0
    assert evaluate(learner, Sinusoid("test"), n_tasks=5).value.isna().sum() == 0


def test_a_perfect_start_is_left_as_it_is():
    linear = Network(nn.Identity(), nn.Linear(1, 1), n_features=1, n_outputs=1)
    with torch.no_grad():
        for parameter, value in zip(linear.parameters(), (2.0, 1.0), strict=True):
            parameter.fill_(value)
    x = torch.linspace(-1, 1, 8).unsqueeze(1)
    learner = MAML(linear, inner_lr=0.1, test_inner_steps=5, test_held_out=0.25).eval()
    assert learner.depth(x, 2 * x + 1) == 0
    assert learner.depth(x, -2 * x) == 5


@pytest.mark.parametrize("share", [-0.1, 0.6, math.nan])
def test_wrong_shares_are_refused(share):
    with pytest.raises(MetaLensError, match=r"test_held_out must be from 0 to 0\.5"):
        MAML(mlp(), test_held_out=share)
