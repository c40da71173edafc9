"""Transductive ANIL against a plain loop on features that are standardized by hand."""

import pytest
import torch
from plain_loop import KINDS, LR, STEPS, assert_same, loss, network, number
from torch import Tensor

from metalens import ANIL, Examples, MetaLensError, mlp


def standardized(z: Tensor) -> Tensor:
    deviations = z - z.mean(0)
    return deviations / (deviations.square().mean(0) + 1e-5).sqrt()


@KINDS
def test_features_are_normalized_by_the_set_at_hand(tasks):
    learner = ANIL(network(), transductive=True, inner_lr=LR, inner_steps=STEPS)
    norm = learner.norm
    with torch.no_grad():
        norm.weight.add_(0.3 * torch.randn_like(norm.weight))
        norm.bias.add_(0.3 * torch.randn_like(norm.bias))
    w1, b1, w2, b2 = learner.network.backbone.parameters()

    def features(x: Tensor) -> Tensor:
        return norm.weight * standardized(torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2)) + norm.bias

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        weight, bias = learner.network.head.parameters()
        for _ in range(STEPS):
            predictions = features(xs) @ weight.T + bias
            gradients = torch.autograd.grad(loss(predictions, ys), (weight, bias), create_graph=True)
            weight, bias = weight - LR * gradients[0], bias - LR * gradients[1]
        return loss(features(xq) @ weight.T + bias, yq)

    assert_same(learner, tasks, reference)


def test_a_prediction_depends_on_its_company_and_one_row_has_none():
    torch.manual_seed(0)
    model = ANIL(mlp(3, 2), transductive=True)(Examples(torch.randn(6, 3), torch.arange(6) % 2))
    x = torch.randn(5, 3)
    assert model.is_transductive
    with pytest.warns(UserWarning, match="A prediction depends on the other inputs of its call"):
        together = model(x)
    with pytest.warns(UserWarning, match="A prediction depends"):
        assert not torch.allclose(model(x[:2]), together[:2], rtol=1e-2)
    with (
        pytest.warns(UserWarning, match="A prediction depends"),
        pytest.raises(MetaLensError, match="at least 2 values per channel, got input shape \\(1, 40\\)"),
    ):
        model(x[:1])


def test_features_stay_those_of_the_network():
    """Relations compare mean features, which would all be equal behind the normalization."""
    torch.manual_seed(0)
    learner, x = ANIL(mlp(3, 2), transductive=True), torch.randn(5, 3)
    assert torch.equal(learner.features(learner.encode(x)), learner.network.embed(x))
    assert not hasattr(ANIL(mlp(3, 2)), "norm")
