"""Neural processes against sums over examples, and against one masked transformer over all tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import build_network, classification_tasks, regression_tasks
from torch import Tensor, nn

from metalens import TNPD, ConditionalNeuralProcess, Examples, Learner, MetaLensError, Objective, Task, mlp
from metalens.estimators.models import for_classes

TASKS = {"classification": classification_tasks, "regression": regression_tasks}
MAKE = {
    "cnp": lambda network, **settings: ConditionalNeuralProcess(network, width=8, **settings).double(),
    "tnpd": lambda network, **settings: TNPD(network, width=8, depth=3, n_heads=2, **settings).double(),
}
both = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
kinds = pytest.mark.parametrize("kind", TASKS)


def targets_of(examples: Examples, n: int) -> np.ndarray:
    if examples.y.is_floating_point():
        return examples.y.numpy()
    return np.array([[float(label == k) for k in range(n)] for label in examples.y]).reshape(-1, n)


def one_task(kind: str) -> tuple[Examples, Examples]:
    tasks = TASKS[kind]("mlp")
    return Examples(*(t[1] for t in tasks.support)), Examples(*(t[1] for t in tasks.query))


def layers(part: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    linear = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear]


def gelu(x: np.ndarray) -> np.ndarray:
    return F.gelu(torch.tensor(x)).numpy()


def perceptron(part: nn.Module, x: np.ndarray) -> np.ndarray:
    *hidden, (weight, bias) = layers(part)
    for own, shift in hidden:
        x = gelu(own @ x + shift)
    return weight @ x + bias


@kinds
def test_a_conditional_neural_process_equals_numpy(kind):
    learner = MAKE["cnp"](build_network("mlp"))
    assert isinstance(learner, ConditionalNeuralProcess)
    support, query = one_task(kind)
    with torch.no_grad():
        z, zq = (learner.embed(x).numpy() for x in (support.x, query.x))
    said = [perceptron(learner.encoder, np.concatenate(pair))
            for pair in zip(z, targets_of(support, 3), strict=True)]  # fmt: skip
    r = sum(said) / len(said)
    expected = [perceptron(learner.decoder, np.concatenate([row, r])) for row in zq]
    found = learner.decode(learner.adapt(support), learner.encode(query.x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def masked_transformer(learner: TNPD, support: Examples, x: Tensor) -> Tensor:
    """All tokens in one sequence; each may attend to the learned token and the support alone."""
    z, zq = learner.embed(support.x), learner.embed(x)
    y = torch.tensor(targets_of(support, 3))
    rows = [torch.cat([z, y, torch.ones(len(z), 1)], 1), torch.cat([zq, torch.zeros(len(zq), 4)], 1)]
    tokens = torch.cat([learner.start, learner.embedding(torch.cat(rows))])
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    mask[:, : 1 + len(z)] = True
    for layer in learner.layers:
        attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
        q, kv, mixed = (getattr(layer, name) for name in ("queries", "keys_values", "mixed"))
        with torch.no_grad():
            attention.in_proj_weight.copy_(torch.cat([q.weight, kv.weight]))
            attention.in_proj_bias.copy_(torch.cat([q.bias, kv.bias]))
            attention.out_proj.load_state_dict(mixed.state_dict())
        normal = F.layer_norm(tokens, (8,), layer.norm.weight, layer.norm.bias)[None]
        tokens = tokens + attention(normal, normal, normal, attn_mask=~mask, need_weights=False)[0][0]
        first, _, _, last = layer.mlp
        hidden = F.gelu(layer.mlp[1](F.layer_norm(tokens, (8,), first.weight, first.bias)))
        tokens = tokens + last(hidden)
    norm, head = learner.output
    return head(F.layer_norm(tokens[1 + len(z) :], (8,), norm.weight, norm.bias))


@kinds
@pytest.mark.parametrize("n", [0, 1, 6])
def test_tnpd_equals_a_masked_transformer(kind, n):
    torch.manual_seed(0)
    learner = MAKE["tnpd"](build_network("mlp"))
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    support, query = one_task(kind)
    support = Examples(support.x[:n], support.y[:n])
    found = learner.decode(learner.adapt(support), learner.encode(query.x))
    torch.testing.assert_close(found, masked_transformer(learner, support, query.x))


@both
def test_the_outer_loss_is_the_mean_negative_log_density(make):
    learner, tasks = make(build_network("mlp")), regression_tasks("mlp")
    own = Objective(learner)(tasks)["query"]
    expected = []
    for i in range(len(tasks.query.x)):
        state = learner.adapt(Examples(tasks.support.x[i], tasks.support.y[i]))
        mean, variance = learner.predict_distribution(state, tasks.query.x[i])
        density = torch.distributions.Normal(mean, variance.sqrt())
        expected.append(-density.log_prob(tasks.query.y[i]).mean())
        assert (variance > learner.min_std**2).all()
    torch.testing.assert_close(own, torch.stack(expected).mean())


@both
def test_the_outer_loss_of_classes_is_their_cross_entropy(make):
    learner, tasks = make(build_network("mlp")), classification_tasks("mlp")
    (x, y), query = (Examples(e.x[:1], e.y[:1]) for e in tasks[:2])
    own = Objective(learner)(Task(Examples(x, y), query))["query"]
    logits = learner(Examples(x[0], y[0]))(query.x[0])
    torch.testing.assert_close(own, F.cross_entropy(logits, query.y[0]))


def predictions(learner: Learner, support: Examples, x: Tensor) -> Tensor:
    with torch.no_grad():
        return learner(support)(x)


@both
@kinds
def test_neither_the_order_of_the_support_nor_other_queries_matter(make, kind):
    learner = make(build_network("mlp"))
    support, query = one_task(kind)
    own = predictions(learner, support, query.x)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = Examples(support.x[order], support.y[order])
    torch.testing.assert_close(predictions(learner, permuted, query.x), own)
    for place in range(len(query.x)):
        torch.testing.assert_close(predictions(learner, support, query.x[place : place + 1])[0], own[place])


def test_tnpd_counts_its_support_and_the_mean_does_not():
    """The same example twice says no more to a mean of what examples say."""
    support, query = one_task("regression")
    once, twice = (Examples(support.x[:1].expand(n, -1), support.y[:1].expand(n, -1)) for n in (1, 2))
    network = build_network("mlp")
    cnp, tnpd = (make(network) for make in MAKE.values())
    torch.testing.assert_close(predictions(cnp, once, query.x), predictions(cnp, twice, query.x))
    assert not torch.allclose(predictions(tnpd, once, query.x), predictions(tnpd, twice, query.x), rtol=1e-3)


@both
def test_the_smallest_deviation_is_a_floor(make):
    learner = make(build_network("mlp"), min_std=3.0)
    support, query = one_task("regression")
    _, variance = learner.predict_distribution(learner.adapt(support), query.x)
    assert (variance > 9).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TNPD(mlp(), width=10, n_heads=4), "a width that n_heads divides, got width=10, depth=3"),
        (lambda: TNPD(mlp(), depth=0), "of at least 1, .*depth=0"),
        (lambda: TNPD(mlp(), n_outputs=0), "TNPD: n_outputs must be at least 1, got 0"),
        (lambda: ConditionalNeuralProcess(mlp(), width=0), "width must be at least 1, got 0"),
        (lambda: ConditionalNeuralProcess(mlp(), min_std=0.0), "min_std"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(MetaLensError, match=words):
        make()


@both
def test_it_has_the_classes_that_it_was_trained_for(make):
    """Also where it has as many features as there are classes: the features are no outputs."""
    learner = make(mlp(5, 3, [4]))
    assert for_classes(learner, 3) is learner
    with pytest.raises(MetaLensError, match="was trained for 3 classes, got 4; use one that takes any"):
        for_classes(learner, 4)
