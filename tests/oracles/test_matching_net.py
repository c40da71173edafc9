"""MatchingNet against its formula in NumPy."""

import numpy as np
import pytest
import torch
from small_networks import N_WAY, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import AdaptedTasks, Examples, MatchingNet, MetaLensError, Network, mlp


def by_numpy(support: np.ndarray, labels: np.ndarray, query: np.ndarray, scale: float) -> np.ndarray:
    """Probabilities of the N_WAY classes for one query example."""
    cosines = [z @ query / (np.sqrt(z @ z) * np.sqrt(query @ query)) for z in support]
    attention = np.exp(scale * np.array(cosines))
    attention /= attention.sum()
    return np.array([sum(a for a, y in zip(attention, labels, strict=True) if y == k) for k in range(N_WAY)])


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("network", ["mlp", "attention"])
def test_equals_numpy(network, scale):
    learner = MatchingNet(build_network(network), scale=scale)
    tasks = classification_tasks(network)
    predictions = AdaptedTasks(learner, tasks).query_predictions.detach().numpy()
    for number in range(len(predictions)):
        with torch.no_grad():
            support, query = (learner.embed(e.x[number]).numpy() for e in tasks[:2])
        labels = tasks.support.y[number].numpy()
        for j, features in enumerate(query):
            expected = by_numpy(support, labels, features, scale)
            np.testing.assert_allclose(np.exp(predictions[number, j]), expected, rtol=1e-9)


def identity_network() -> Network:
    """Features are the inputs."""
    return Network(nn.Identity(), nn.Linear(2, N_WAY), n_features=2, n_outputs=N_WAY)


def test_classes_of_unequal_size_by_hand():
    """Cosines 1, 0 and 0; class 2 has two of the three examples, and class 1 none."""
    learner = MatchingNet(identity_network(), scale=1.0)
    support = Examples(torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, -1.0]]), torch.tensor([0, 2, 2]))
    logits = learner.predict(learner.adapt(support), torch.tensor([[5.0, 0.0]]))
    expected = torch.tensor([[np.e, 0.0, 2.0]]) / (np.e + 2)
    torch.testing.assert_close(logits.exp(), expected)


def test_a_large_scale_and_features_of_zero_keep_everything_finite():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    learner = MatchingNet(identity_network(), scale=1000.0)
    logits = learner.predict(learner.adapt(Examples(x, torch.tensor([0, 1, 1]))), x)
    loss = learner.loss(logits, torch.tensor([1, 0, 0]))
    loss.backward()
    assert x.grad is not None
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(logits[0, 1].item(), -1000.0)  # cosine 0 of the third example


def test_defaults_and_what_is_kept_of_the_network():
    learner = MatchingNet(mlp(5, N_WAY, [8]))
    assert (learner.n_way, learner.scale) == (N_WAY, 10.0)
    assert not [name for name, _ in learner.named_parameters() if "head" in name]
    support = Examples(torch.randn(10, 5), torch.arange(10) % 5)
    assert MatchingNet(mlp(5, N_WAY, [8]), n_way=5)(support)(support.x).shape == (10, 5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"^MatchingNet needs at least 2 classes, got n_way=1; .* or n_way.$"),
        ({"n_way": 2, "scale": 0.0}, r"^MatchingNet: scale must be above 0 and finite, got 0.0.$"),
        ({"n_way": 2, "scale": float("inf")}, r"^MatchingNet: scale must be above 0 and finite, got inf.$"),
        ({"n_way": 2, "scale": float("nan")}, r"^MatchingNet: scale must be above 0 and finite, got nan.$"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        MatchingNet(mlp(), **settings)


def test_real_targets_are_refused():
    learner = MatchingNet(build_network("mlp"))
    with pytest.raises(MetaLensError, match=r"^MatchingNet is a classifier, got real targets; .*MAML.$"):
        AdaptedTasks(learner, regression_tasks("mlp")).query_predictions  # noqa: B018
