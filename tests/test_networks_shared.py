"""What of a network adapts: stages that all tasks share and frozen parameters do not."""

import pytest
import torch
from torch import nn

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    Examples,
    MetaLensError,
    Network,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    mlp,
    pose_net,
)


def shared_mlp(n_shared: int) -> Network:
    """The same weights for every `n_shared`."""
    torch.manual_seed(0)
    network = mlp(5, 3, [8, 7], activation=nn.Tanh).double()
    return Network(network.backbone, network.head, n_features=7, n_outputs=3, n_shared=n_shared)


def shared_tasks() -> Task:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    y = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    return Task(Examples(x[0], y[0]), Examples(x[1], y[1]))


def test_shared_stages_are_trained_but_not_adapted():
    network = pose_net(n_filters=2, image_size=16)
    learner = MAML(network, inner_lr=0.1)
    encoder = {name for name, _ in network.named_parameters() if name.startswith("backbone.0.")}
    assert len(encoder) == 8
    assert learner.adapted_parameters().keys() == dict(network.named_parameters()).keys() - encoder
    tasks = Task(*(Examples(torch.rand(2, 4, 1, 16, 16), torch.rand(2, 4, 1)) for _ in range(2)))
    loss = Objective(learner)(tasks)["query"]
    gradients = torch.autograd.grad(loss, list(network.blocks[0].parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_maml_on_shared_stages_equals_maml_on_the_rest_with_what_they_return():
    tasks, network = shared_tasks(), shared_mlp(1)
    predictions = AdaptedTasks(MAML(network, inner_lr=0.1, inner_steps=3), tasks).query_predictions
    rest = Network(network.backbone[1:], network.head, n_features=7, n_outputs=3)
    hidden = Task(
        *(Examples(network(e.x.flatten(0, 1), stop=1).unflatten(0, (4, 6)), e.y) for e in tasks[:2])
    )
    expected = AdaptedTasks(MAML(rest, inner_lr=0.1, inner_steps=3), hidden).query_predictions
    torch.testing.assert_close(predictions, expected)
    plain = AdaptedTasks(MAML(shared_mlp(0), inner_lr=0.1, inner_steps=3), tasks).query_predictions
    assert not torch.allclose(predictions, plain)


def test_maml_on_a_shared_backbone_is_anil():
    tasks, settings = shared_tasks(), {"inner_lr": 0.1, "inner_steps": 3}
    maml = AdaptedTasks(MAML(shared_mlp(2), **settings), tasks).query_predictions
    anil = AdaptedTasks(ANIL(shared_mlp(0), **settings), tasks).query_predictions
    torch.testing.assert_close(maml, anil)


def test_frozen_parameters_do_not_adapt():
    network = shared_mlp(1)
    network.head.bias.requires_grad_(False)
    assert list(MAML(network).adapted_parameters()) == [
        "backbone.1.0.weight",
        "backbone.1.0.bias",
        "head.weight",
    ]
    assert list(ANIL(network).adapted_parameters()) == ["head.weight"]


@pytest.mark.parametrize("learner", [MAML(mlp()), ANIL(mlp())])
def test_a_learner_adapts_whatever_tensors_it_is_called_with(learner):
    support = Sinusoid()[0].support
    weights = {name: p.detach() for name, p in learner.named_parameters()}
    state = torch.func.functional_call(learner, weights, (support,)).state
    torch.testing.assert_close(state, learner(support).state)
    assert all(not torch.equal(state[name], p) for name, p in learner.adapted_parameters().items())


def test_headless_networks_share_the_same_stages():
    assert shared_mlp(1).headless().n_shared == 1
    assert ProtoNet(shared_mlp(2)).network.n_shared == 2


@pytest.mark.parametrize("n_shared", [-1, 3])
def test_more_shared_stages_than_there_are_are_refused(n_shared):
    with pytest.raises(MetaLensError, match=f"n_shared must be 0 to 2, .* got {n_shared}"):
        shared_mlp(n_shared)
