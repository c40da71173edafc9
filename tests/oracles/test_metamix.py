"""MetaMix against loops over tasks and examples, with the draws that it made."""

import numpy as np
import pytest
import torch
from small_networks import N_TASKS, N_WAY, build_network, classification_tasks, regression_tasks
from torch import nn
from torch.distributions import Beta

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    Examples,
    MetaLensError,
    MetaMix,
    Network,
    Objective,
    ProtoNet,
    Task,
)


class Draws:
    """What was drawn last; the stage can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layer: int | None = None
        self.layers, self.bounds, self.partners, self.lam, self.alpha = [], None, None, None, None
        randint, sample = torch.randint, Beta.sample

        def recorded_randint(*args, **kwargs):
            value = randint(*args, **kwargs)
            if value.dim() == 0:
                self.bounds = args[:2]
                value = value if self.layer is None else torch.tensor(self.layer)
                self.layers.append(int(value))
            else:
                self.partners = value
            return value

        def recorded_sample(beta, shape):
            self.lam = sample(beta, shape)
            self.alpha = beta.concentration1.item(), beta.concentration0.item()
            return self.lam

        monkeypatch.setattr(torch, "randint", recorded_randint)
        monkeypatch.setattr(Beta, "sample", recorded_sample)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    return Draws(monkeypatch)


def one_task(tasks: Task, i: int) -> Task:
    return Task(*(Examples(x[i], y[i]) for x, y in tasks[:2]))


def loss_by_loops(learner, tasks: Task, layer: int, draws: Draws, change=lambda s, q: (s, q)) -> torch.Tensor:
    """Mixes one query example after the other, with explicit targets: soft labels or mixed real targets."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(N_TASKS):
        support, query, _ = one_task(tasks, i)
        lam = draws.lam[i].item()
        state = learner.adapt(support)
        hidden_s, hidden_q = change(*(learner.hidden(state, e.x, layer) for e in (support, query)))
        mixed, targets = [], []
        for j, partner in enumerate(draws.partners[i].tolist()):
            mixed.append(lam * hidden_s[partner] + (1 - lam) * hidden_q[j])
            target = [support.y[partner], query.y[j]]
            if not support.y.is_floating_point():
                target = [torch.eye(N_WAY, dtype=torch.float64)[label] for label in target]
            targets.append(lam * target[0] + (1 - lam) * target[1])
        predictions = learner.predict_hidden(state, torch.stack(mixed), layer)
        if support.y.is_floating_point():
            errors = [(p - t).square().mean() for p, t in zip(predictions, targets, strict=True)]
        else:
            errors = [-(t * p.log_softmax(0)).sum() for p, t in zip(predictions, targets, strict=True)]
        total = total + sum(errors) / len(errors) / N_TASKS
    return total


@pytest.mark.parametrize("network", ["mlp", "conv-norm"])
@pytest.mark.parametrize("make", [MAML, ANIL, ProtoNet])
@pytest.mark.parametrize("kind", [classification_tasks, regression_tasks])
def test_loss_and_gradient_equal_loops_at_every_stage(network, make, kind, draws):
    if make is ProtoNet and kind is regression_tasks:
        pytest.skip("a classifier")
    learner, tasks = make(build_network(network)), kind(network)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    depth = learner.network.depth
    for draws.layer in {0, 1, depth}:
        loss = Objective(learner, [MetaMix()])(tasks)["query"]
        assert draws.bounds == (0, depth + 1)
        assert draws.lam.shape == (N_TASKS,)
        assert draws.lam.std() > 0
        assert draws.partners.shape == tasks.query.y.shape[:2]
        assert not draws.partners.eq(0).all()
        reference = loss_by_loops(learner, tasks, draws.layer, draws)
        torch.testing.assert_close(loss, reference, rtol=1e-10, atol=0)
        gradients = [torch.autograd.grad(v, parameters, allow_unused=True) for v in (loss, reference)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.5, 8.0])
def test_lam_is_beta_distributed(alpha, draws):
    regularizer = MetaMix() if alpha is None else MetaMix(alpha=alpha)
    expected = 2.0 if alpha is None else alpha
    one = AdaptedTasks(ProtoNet(build_network("mlp")), classification_tasks("mlp"))
    regularizer.loss_terms(one)
    assert draws.alpha == (expected, expected)


def test_stages_and_partners_are_drawn_from_all(draws):
    one = AdaptedTasks(ProtoNet(build_network("mlp")), classification_tasks("mlp"))
    depth, partners = one.learner.network.depth, []
    for _ in range(40):
        MetaMix().loss_terms(one)
        partners.append(draws.partners)
    assert set(draws.layers) == set(range(depth + 1))
    assert set(torch.stack(partners).flatten().tolist()) == set(range(one.tasks.support.y.shape[1]))
    draws.layers.clear()
    for _ in range(40):
        MetaMix(channel_shuffle=0.2).loss_terms(one)
    assert set(draws.layers) == set(range(1, depth + 1))


def test_integer_inputs_are_mixed_after_the_first_stage(draws):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Embedding(9, 4), nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh()))
    network = Network(backbone, nn.Linear(6, N_WAY), n_features=6, n_outputs=N_WAY).double()
    tasks = Task(*(Examples(torch.randint(9, (*y.shape, 2)), y) for _, y in classification_tasks("mlp")[:2]))
    objective = Objective(MAML(network, inner_lr=0.1), [MetaMix()])
    losses = [objective(tasks)["query"].item() for _ in range(30)]
    assert set(draws.layers) == {1, 2}
    assert np.isfinite(losses).all()


def test_uses_the_learners_own_loss_and_not_its_outer_loss(draws):
    class Other(MAML):
        trusts_vmap = True  # and is not tried

        def outer_loss(self, state, predictions, z, y):
            raise AssertionError

    learner = Other(build_network("mlp"), loss=lambda predictions, y: (predictions - 2 * y).abs().mean())
    tasks, draws.layer = regression_tasks("mlp"), 1
    loss = Objective(learner, [MetaMix()])(tasks)["query"]
    errors = []
    for i in range(N_TASKS):
        (support, query), lam, partners = one_task(tasks, i)[:2], draws.lam[i].item(), draws.partners[i]
        state = learner.adapt(support)
        hidden = [learner.hidden(state, e.x, 1) for e in (support, query)]
        mixed = lam * hidden[0][partners] + (1 - lam) * hidden[1]
        targets = lam * support.y[partners] + (1 - lam) * query.y
        errors.append((learner.predict_hidden(state, mixed, 1) - 2 * targets).abs().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def coded(y: torch.Tensor, offset: int, channels: int = 8, positions: tuple[int, ...] = ()) -> torch.Tensor:
    """Activations `(T, n, d, ...)` whose values say which example, channel and position they come from."""
    shape = (*y.shape, channels, *positions)
    return torch.arange(offset, offset + int(np.prod(shape)), dtype=torch.float64).view(shape)


@pytest.mark.parametrize("positions", [(), (2, 3)])
def test_channels_come_from_one_example_of_the_class_that_gives(positions):
    torch.manual_seed(0)
    n_tasks, n_way, channels = 6, 4, 8
    ys = [
        torch.stack([torch.arange(n_way).repeat(k)[torch.randperm(k * n_way)] for _ in range(n_tasks)])
        for k in (2, 3)
    ]
    sets = [Examples(coded(y, 10_000 * i, channels, positions), y) for i, y in enumerate(ys)]
    givers, masks, donors = {}, {}, set()
    for draw in range(20):
        for number, new in enumerate(MetaMix(channel_shuffle=0.4)._shuffle_channels(*sets)):
            old = sets[number]
            assert torch.equal(new.y, old.y)
            for t in range(n_tasks):
                for j in range(old.y.shape[1]):
                    changed = (new.x[t, j] != old.x[t, j]).view(channels, -1)
                    assert (changed.all(1) == changed.any(1)).all()  # whole channels
                    taken = changed.all(1).nonzero().flatten().tolist()
                    assert masks.setdefault((draw, t), taken) == taken  # one mask for all sets and examples
                    fits = [
                        p
                        for p in range(old.y.shape[1])
                        if all(torch.equal(new.x[t, j, c], old.x[t, p, c]) for c in taken)
                    ]
                    if taken:
                        (donor,) = fits
                        own, other = old.y[t, j].item(), old.y[t, donor].item()
                        assert givers.setdefault((draw, t, own), other) == other  # in both sets
                        donors.add((number, t, donor))
    share = np.mean([len(taken) for taken in masks.values()]) / channels
    assert 0.35 < share < 0.45
    assert len({str(masks[0, t]) for t in range(n_tasks)}) > 1
    assert len(donors) == sum(y.numel() for y in ys)  # all examples of a class give
    cycles = set()
    for draw, t in masks:
        if masks[draw, t]:
            visited = [0]
            for _ in range(n_way):
                visited.append(givers[draw, t, visited[-1]])
            assert sorted(visited[:-1]) == list(range(n_way))
            assert visited[-1] == 0
            cycles.add(tuple(visited))
    assert len(cycles) == 6  # every cycle of 4 classes


def test_a_class_without_examples_gives_nothing():
    y = torch.tensor([[0, 0, 1, 2]])
    query = Examples(coded(torch.zeros(1, 2), 100), torch.tensor([[0, 0]]))
    for _ in range(20):
        _, new = MetaMix(channel_shuffle=0.9)._shuffle_channels(Examples(coded(y, 0), y), query)
        assert torch.equal(new.x, query.x)


def test_a_class_of_the_query_set_alone_is_shuffled_too():
    query = Examples(coded(torch.zeros(1, 2), 100), torch.tensor([[0, 1]]))
    support = Examples(coded(torch.zeros(1, 1), 0), torch.tensor([[0]]))
    torch.manual_seed(0)
    _, new = MetaMix(channel_shuffle=0.9)._shuffle_channels(support, query)
    assert (new.x != query.x).any()


def test_what_is_mixed_are_the_shuffled_activations(draws, monkeypatch):
    def fake(self, support, query):
        return Examples(2 * support.x, support.y), Examples(query.x - 1, query.y)

    monkeypatch.setattr(MetaMix, "_shuffle_channels", fake)
    learner, tasks, draws.layer = MAML(build_network("mlp")), classification_tasks("mlp"), 2
    loss = Objective(learner, [MetaMix(channel_shuffle=0.1)])(tasks)["query"]
    torch.testing.assert_close(loss, loss_by_loops(learner, tasks, 2, draws, lambda s, q: (2 * s, q - 1)))
    loss = Objective(learner, [MetaMix()])(tasks)["query"]
    torch.testing.assert_close(loss, loss_by_loops(learner, tasks, 2, draws))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 0.0}, r"^MetaMix: alpha must be above 0 and finite, got 0.0.$"),
        ({"alpha": float("inf")}, "alpha must be above 0 and finite, got inf"),
        ({"alpha": float("nan")}, "alpha must be above 0"),
        ({"channel_shuffle": -0.1}, r"^MetaMix: channel_shuffle must be 0 or more and below 1, got -0.1.$"),
        ({"channel_shuffle": 1.0}, "channel_shuffle must be 0 or more and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        MetaMix(**settings)


def test_settings_at_their_limits():
    assert MetaMix(alpha=0.01, channel_shuffle=0.99).channel_shuffle == 0.99
    assert MetaMix().channel_shuffle == 0


def test_shuffling_channels_of_regression_tasks_is_refused():
    objective = Objective(MAML(build_network("mlp")), [MetaMix(channel_shuffle=0.1)])
    words = r"^MetaMix: channel_shuffle is for classification, got real targets; set it to 0.$"
    with pytest.raises(MetaLensError, match=words):
        objective(regression_tasks("mlp"))
