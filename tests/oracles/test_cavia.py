"""CAVIA against networks that read inputs with the context appended, and against FiLM."""

import pytest
import torch
import torch.nn.functional as F
from plain_loop import KINDS, LR, STEPS, assert_same, loss, network, number, tanh_mlp
from torch import Tensor, nn

from metalens import CAVIA, MetaLensError, Network, TransductiveBatchNorm, conv4, mlp


@KINDS
@pytest.mark.parametrize("first_order", [False, True])
def test_cavia_appends_its_context_to_the_input(first_order, tasks):
    learner = CAVIA(network(), n_context=3, inner_lr=LR, inner_steps=STEPS, first_order=first_order)
    w1, *others = learner.network.parameters()
    appended = learner.maps[0].weight
    values = [torch.cat([w1, appended], dim=1), *others]

    def predict(context: Tensor, x: Tensor) -> Tensor:
        return tanh_mlp(values, torch.cat([x, context.expand(len(x), -1)], dim=1))

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        context = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(STEPS):
            (gradient,) = torch.autograd.grad(
                loss(predict(context, xs), ys), context, create_graph=not first_order, retain_graph=True
            )
            context = context - LR * gradient
        return loss(predict(context, xq), yq)

    assert_same(learner, tasks, reference)


@KINDS
def test_the_context_enters_a_layer_by_name(tasks):
    """At the second layer, the context is appended to the first hidden activations."""
    learner = CAVIA(network(), n_context=2, layer="backbone.1.0", inner_lr=LR)
    w1, b1, w2, b2, w3, b3 = learner.network.parameters()
    context, x = torch.tensor([0.4, -1.2], dtype=torch.float64), tasks.query.x[0]
    hidden = torch.tanh(x @ w1.T + b1)
    hidden = torch.cat([hidden, context.expand(len(x), -1)], dim=1)
    expected = torch.tanh(hidden @ torch.cat([w2, learner.maps[0].weight], dim=1).T + b2) @ w3.T + b3
    torch.testing.assert_close(learner.predict_encoded({"context": context}, x), expected)


def test_a_normalization_is_followed_by_film():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(1, 3, 3), TransductiveBatchNorm(3)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    backbone = nn.Sequential(conv, norm, nn.Flatten())
    learner = CAVIA(Network(backbone, nn.Linear(48, 2), n_features=48, n_outputs=2).double(), n_context=4)
    context, x = torch.randn(4).double(), torch.randn(5, 1, 6, 6).double()
    normalized = F.batch_norm(conv(x), None, None, training=True)
    gamma, beta = (own + layer.weight @ context
                   for own, layer in zip((norm.weight, norm.bias), learner.maps, strict=True))  # fmt: skip
    film = gamma.view(3, 1, 1) * normalized + beta.view(3, 1, 1)
    torch.testing.assert_close(
        learner.predict_encoded({"context": context}, x), learner.network.head(film.flatten(1))
    )


def test_the_default_layer():
    """It is the first normalization, or the first layer with a bias, behind the shared stages."""
    shared = mlp(5, 2, [4, 3])
    shared = Network(shared.backbone, shared.head, n_features=3, n_outputs=2, n_shared=1)
    found = [CAVIA(of)._modulated for of in (mlp(), mlp(norm=True), conv4(n_way=5), shared)]
    assert found[0] == ["backbone.0.0.bias"]
    assert found[1] == ["backbone.0.1.weight", "backbone.0.1.bias"]
    assert found[2] == ["backbone.0.1.weight", "backbone.0.1.bias"]
    assert found[3] == ["backbone.1.0.bias"]


def test_cavia_trains_all_but_its_context():
    learner = CAVIA(mlp(1, 1, [8]))
    frozen = [name for name, p in learner.named_parameters() if not p.requires_grad]
    assert frozen == ["context"]
    assert not learner.context.any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_context": 0}, "n_context must be at least 1, got 0"),
        ({"adapting": "head"}, "CAVIA adapts its context alone; leave adapting out"),
        (
            {"layer": "backbone.7"},
            "layer='backbone.7' is not or lacks .* are backbone.0.0, backbone.1.0, head",
        ),
        ({"inner_lr": 0.0}, "inner_lr"),
    ],
)
def test_mistakes(settings, words):
    with pytest.raises(MetaLensError, match=words):
        CAVIA(mlp(), **settings)
