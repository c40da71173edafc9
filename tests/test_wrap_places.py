"""Blocks and weights that are used in several places of a network adapt as one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from wrapping import wrapped

from metalens import ANIL, MAML, Examples, Machine, MetaLensError, Objective, Sinusoid, fit
from metalens.networks.functional import functional_call


def shared(kind: str) -> tuple[nn.Module, str]:
    block, act = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.PReLU()
    if kind == "a block":
        return nn.Sequential(nn.Linear(4, 4), block, block, block, nn.Linear(4, 2)), "4"
    if kind == "an activation":
        return nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2)), "4"
    if kind == "a weight":
        module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        module[2].weight = module[0].weight
        return module, "4"
    if kind == "a norm":
        norm = nn.LayerNorm(4)
        return nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 4), norm, nn.Linear(4, 2)), "5"

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again, self.fc = self.first, nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.again(self.first(x).tanh()))

    return Twice(), "fc"


KINDS = ["a block", "an activation", "a weight", "a norm", "two names"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_in_several_places_adapts_as_one(kind):
    """As an oracle, plain PyTorch: one step of gradient descent on the module itself."""
    torch.manual_seed(0)
    module, head = shared(kind)
    network = wrapped(module, head)
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    F.mse_loss(module(x), y).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.1 * parameter.grad
    before = dict(network.named_parameters())

    model = MAML(network, inner_lr=0.1)(Examples(x, y))
    torch.testing.assert_close(model(x), module(x))
    after = dict(network.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_in_several_places_trains_and_compiles_the_same(kind):
    tasks, results = Sinusoid("train", k_shot=5, n_query=5), []
    for machine in (Machine(compile=False), Machine(batching="loop", compile=False)):
        torch.manual_seed(0)
        module, head = shared(kind)
        network = wrapped(nn.Sequential(nn.Linear(1, 4), module), f"1.{head}", torch.randn(4, 1))
        objective = Objective(MAML(network))
        objective.learner.loss = lambda predictions, y: F.mse_loss(predictions, y.expand_as(predictions))
        fit(objective, tasks, steps=2, meta_batch_size=2, seed=0, machine=machine)
        results.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(*results)


def test_the_functional_call_of_pytorch_spoils_a_block_in_two_places():
    """When this fails, PyTorch has mended it, and `metalens.networks.functional` can go."""
    block = nn.Linear(2, 2)
    module, weight = nn.Sequential(block, nn.Tanh(), block), block.weight
    other = {"0.weight": torch.zeros(2, 2)}
    torch.func.functional_call(module, other, (torch.ones(1, 2),))
    assert block.weight is not weight
    block.weight = weight
    functional_call(module, other, (torch.ones(1, 2),))
    assert block.weight is weight


def test_a_head_whose_weight_is_that_of_the_backbone_cannot_adapt_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    network = wrapped(module, "2", torch.randn(4, 2))
    with pytest.raises(MetaLensError, match=r"ANIL .* head shares backbone\.0\.weight with the backbone"):
        ANIL(network)
    assert MAML(network).adapted_parameters()
