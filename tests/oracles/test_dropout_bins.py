"""DropoutBins against sums over masks and bins written as loops."""

import copy

import numpy as np
import pytest
import torch
from small_networks import NETWORKS, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import (
    ANIL,
    IMAML,
    MAML,
    AdaptedTasks,
    DropoutBins,
    Examples,
    MetaLensError,
    Network,
    Objective,
    ProtoNet,
    Reptile,
    Task,
    TNet,
    mlp,
)
from metalens.networks.wrap import WrappedNetwork


def binned(network: Network, **settings) -> Network:
    return Objective(MAML(network), [DropoutBins(**settings)]).learner.network


def by_loops(network: Network, z: np.ndarray, kept: np.ndarray, p: float, bins: list[range]) -> np.ndarray:
    """z `(n, d)`, kept `(S, n, d)`."""
    heads = [(h.weight.detach().numpy(), h.bias.detach().numpy()) for h in network.head.heads]
    result = np.zeros((len(z), len(heads[0][1])))
    for mask in kept:
        for (weight, bias), columns in zip(heads, bins, strict=True):
            for row in range(len(z)):
                masked = [z[row, c] * mask[row, c] / (1 - p) for c in columns]
                result[row] += (weight @ np.array(masked) + bias) / (len(kept) * len(heads))
    return result


@pytest.mark.parametrize(
    ("n_bins", "bins"),
    [(1, [range(7)]), (2, [range(4), range(4, 7)]), (3, [range(3), range(3, 5), range(5, 7)])],
)
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_equals_loops(monkeypatch, n_bins, bins, p):
    draws = torch.rand(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shapes = []

    def rand_like(tensor):
        shapes.append(tuple(tensor.shape))
        return draws

    monkeypatch.setattr(torch, "rand_like", rand_like)
    network = binned(build_network("mlp"), n_bins=n_bins, n_samples=3, p=p)
    z = torch.randn(5, 7, dtype=torch.float64)
    kept = draws.numpy() >= p
    np.testing.assert_allclose(
        network.head(z).detach().numpy(), by_loops(network, z.numpy(), kept, p, bins), rtol=1e-10
    )
    assert shapes == ([(3, 5, 7)] if p else [])
    network.eval()
    everything = np.ones((1, 5, 7))
    np.testing.assert_allclose(
        network.head(z).detach().numpy(), by_loops(network, z.numpy(), everything, 0.0, bins), rtol=1e-10
    )
    assert len(shapes) == (p > 0)


def test_masks_differ_between_examples_samples_tasks_and_passes():
    torch.manual_seed(0)
    network = binned(mlp(1, 1, [400]), n_bins=1, n_samples=2, p=0.3)
    with torch.no_grad():
        network.head.heads[0].weight.fill_(1.0)
        network.head.heads[0].bias.zero_()
    z = torch.ones(2, 400)
    first, second = network.head(z), network.head(z)
    assert len({value.item() for value in (*first, *second)}) == 4
    assert bool(((first - 400).abs() < 60).all())  # the mean is kept
    # Each feature is kept by 0, 1 or 2 of the samples, each with weight 1 / (2 * 0.7).
    identity = binned(mlp(1, 3, [3]), n_bins=1, n_samples=2, p=0.3)
    with torch.no_grad():
        identity.head.heads[0].weight.copy_(torch.eye(3))
        identity.head.heads[0].bias.zero_()
    steps = (identity.head(torch.ones(50, 3)) * 1.4).detach()
    torch.testing.assert_close(steps, steps.round())
    assert set(steps.round().flatten().tolist()) == {0.0, 1.0, 2.0}
    same = Examples(torch.zeros(3, 4, 1), torch.zeros(3, 4, 1))
    adapted = AdaptedTasks(Objective(ANIL(mlp(1, 1, [40])), [DropoutBins(p=0.5)]).learner, Task(same, same))
    assert not torch.equal(adapted.query_predictions[0], adapted.query_predictions[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rest_of_the_network_stays(name):
    network = build_network(name)
    plain = copy.deepcopy(network)
    learner = ANIL(network)
    tasks = classification_tasks(name)
    objective = Objective(learner, [DropoutBins(n_bins=2, p=0.2)])
    assert learner.network is network
    assert isinstance(network, WrappedNetwork) == (name == "attention")
    assert (network.n_features, network.n_outputs) == (plain.n_features, plain.n_outputs)
    assert sorted(learner.adapted_parameters()) == [
        "head.heads.0.bias", "head.heads.0.weight", "head.heads.1.bias", "head.heads.1.weight",
    ]  # fmt: skip
    assert {p.dtype for p in network.head.parameters()} == {torch.float64}
    torch.testing.assert_close(network.embed(tasks.query.x[0]), plain.embed(tasks.query.x[0]))
    assert objective(tasks)["query"].isfinite()


def test_no_drop_is_the_same_as_a_scaled_head():
    """One bin and p = 0 is an ordinary linear head."""
    network, tasks = build_network("mlp"), regression_tasks("mlp")
    objective = Objective(MAML(network, inner_lr=0.1), [DropoutBins(n_bins=1, p=0)])
    plain = copy.deepcopy(network)
    plain.head = plain.head.heads[0]
    torch.testing.assert_close(objective(tasks), Objective(MAML(plain, inner_lr=0.1))(tasks))


def test_layers_of_bins_are_transformed_by_tnet():
    learner = TNet(mlp(1, 2, [6]))
    Objective(learner, [DropoutBins(n_bins=3, p=0)])
    assert [len(transform) for transform in learner.transforms] == [6, 2, 2, 2]


def test_settings_and_defaults():
    regularizer = DropoutBins()
    assert (regularizer.n_bins, regularizer.n_samples, regularizer.p) == (2, 4, 0.1)
    assert not hasattr(regularizer, "weight")
    assert not list(regularizer.parameters())
    for name in ("n_bins", "n_samples"):
        with pytest.raises(MetaLensError, match=rf"^DropoutBins: {name} must be at least 1, got 0.$"):
            DropoutBins(**{name: 0})
    assert DropoutBins(n_bins=1, n_samples=1, p=0).n_samples == 1
    for p in (-0.1, 1.0):
        with pytest.raises(MetaLensError, match=rf"^DropoutBins: p must be 0 or more and below 1, got {p}.$"):
            DropoutBins(p=p)


def test_refusals():
    with pytest.raises(MetaLensError, match=r"^DropoutBins cannot act on Reptile: it has no outer loss"):
        Objective(Reptile(mlp()), [DropoutBins()])
    with pytest.raises(
        MetaLensError, match=r"^DropoutBins needs a linear head to replace, and ProtoNet .*Identity;"
    ):
        Objective(ProtoNet(mlp(1, 2)), [DropoutBins()])
    with pytest.raises(
        MetaLensError, match=r"^DropoutBins needs a linear head .*; use .* and one DropoutBins.$"
    ):
        Objective(MAML(mlp()), [DropoutBins(), DropoutBins()])
    deep = Network(nn.Identity(), nn.Sequential(nn.Linear(2, 2)), n_features=2, n_outputs=2)
    with pytest.raises(MetaLensError, match=r"has one of type Sequential;"):
        Objective(MAML(deep), [DropoutBins()])
    with pytest.raises(
        MetaLensError, match=r"^DropoutBins: 4 bins need as many features, and .* has 3; lower n_bins.$"
    ):
        Objective(MAML(mlp(1, 1, [3])), [DropoutBins(n_bins=4)])
    Objective(MAML(mlp(1, 1, [3])), [DropoutBins(n_bins=3)])
    with pytest.raises(
        MetaLensError, match=r"^DropoutBins: the inner loop of IMAML .* set p=0, or use MAML.$"
    ):
        Objective(IMAML(mlp()), [DropoutBins()])
    Objective(IMAML(mlp()), [DropoutBins(p=0)])
