"""Task samplers against NumPy loops, enumeration and finite differences."""

import itertools

import numpy as np
import pytest
import small_networks
import torch
from torch import nn
from torch.func import functional_call

from metalens import ANIL, IMAML, MAML, R2D2, AdaptedTasks, ProtoNet, Reptile
from metalens.adapted_tasks import adapted_loss
from paper.samplers.asr import example_scores, slopes_of_examples, slopes_of_tasks, task_scores
from paper.samplers.ats import log_probability, scheduler_scores
from paper.samplers.dpp import drawn_diverse, kernel_of
from paper.samplers.gradients import (
    example_losses,
    example_slopes,
    query_loss,
    support_loss,
    task_gradients,
    task_losses,
    weights_of,
)
from paper.samplers.weighting import Weighting, drawn

LEARNERS = {
    "MAML": lambda network: MAML(network, inner_lr=0.1, inner_steps=2),
    "ANIL": lambda network: ANIL(network, inner_lr=0.1),
    "IMAML": lambda network: IMAML(network, proximity=100.0, inner_lr=0.009, inner_steps=20),
    "Reptile": lambda network: Reptile(network, inner_lr=0.01, inner_steps=2, inner_optimizer="sgd"),
    "ProtoNet": ProtoNet,
    "R2D2": R2D2,
}
TASKS = {"regression": small_networks.regression_tasks, "classification": small_networks.classification_tasks}


def learner_of(name="MAML"):
    return LEARNERS[name](small_networks.build_network("mlp"))


def adapted_of(name="MAML", kind="classification", **settings):
    return AdaptedTasks(learner_of(name), TASKS[kind]("mlp"), **settings)


def task_of(adapted, number):
    support, query = adapted.tasks[:2]
    return (support.x[number], support.y[number], query.x[number], query.y[number])


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("settings", [{"batching": "vmap"}, {"batching": "loop"}, {"chunk": 2}])
@pytest.mark.parametrize("loss", [adapted_loss, support_loss, query_loss])
@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_of_tasks_are_those_of_each_by_itself(name, loss, settings):
    adapted = adapted_of(name, **settings)
    with torch.no_grad():
        gradients = task_gradients(adapted, loss)
        losses = task_losses(adapted, loss, weights_of(adapted.learner))
    parameters = list(adapted.learner.parameters())
    for number, gradient in enumerate(gradients):
        value = loss(adapted.learner, *task_of(adapted, number))
        expected = torch.autograd.grad(value, parameters, materialize_grads=True)
        torch.testing.assert_close(gradient, flat(expected))
        torch.testing.assert_close(losses[number], value)


@pytest.mark.parametrize("settings", [{"batching": "vmap"}, {"batching": "loop"}, {"chunk": 2}])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MAML", "regression"),
        ("MAML", "classification"),
        ("ANIL", "regression"),
        ("ProtoNet", "classification"),
    ],
)
def test_slopes_are_gradients_along_a_direction(name, kind, settings):
    adapted = adapted_of(name, kind, **settings)
    torch.manual_seed(0)
    direction = torch.randn_like(weights_of(adapted.learner))
    with torch.no_grad():
        slopes = example_slopes(adapted, direction)
    for number in range(adapted.n_tasks):
        losses = example_losses(adapted.learner, *task_of(adapted, number))
        torch.testing.assert_close(losses.mean(), adapted_loss(adapted.learner, *task_of(adapted, number)))
        for loss, slope in zip(losses, slopes[number], strict=True):
            expected = torch.autograd.grad(
                loss, list(adapted.learner.parameters()), retain_graph=True, materialize_grads=True
            )
            torch.testing.assert_close(slope, flat(expected) @ direction)


def features_of(learner, x):
    z = learner.network.embed(x).detach().numpy()
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def classes_of(y):
    """Class numbers; of real targets whether they are among the larger half."""
    if not y.is_floating_point():
        return y.numpy()
    values = y.numpy().mean(axis=1)
    return (np.argsort(np.argsort(values)) >= len(values) // 2).astype(int)


def rates(z, classes):
    """Diversity and entropy, straight from the formulas, with matrices of the size of the features."""
    n, d = z.shape
    diversity = 0.5 * np.linalg.slogdet(np.eye(d) + d / (n * 0.1**2) * z.T @ z)[1]
    entropy = 0.0
    for c in np.unique(classes):
        member = np.diag((classes == c).astype(float))
        trace = np.trace(member)
        inner = np.eye(d) + d / (trace * 0.1**2) * z.T @ member @ z
        entropy += trace / (2 * n) * np.linalg.slogdet(inner)[1]
    return diversity, entropy


@pytest.mark.parametrize("kind", TASKS)
def test_scores_of_tasks(kind):
    adapted = adapted_of(kind=kind)
    with torch.no_grad():
        scores = task_scores(adapted)
    learner = adapted.learner
    for number in range(adapted.n_tasks):
        x, y = task_of(adapted, number)[:2]
        loss = learner.loss(learner.network(x), y)
        gradient = flat(torch.autograd.grad(loss, list(learner.parameters())))
        expected = (*rates(features_of(learner, x), classes_of(y)), gradient.square().sum().item())
        np.testing.assert_allclose(scores[number].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", TASKS)
def test_scores_of_examples_are_what_the_set_loses_without_them(kind):
    adapted = adapted_of(kind=kind)
    with torch.no_grad():
        scores = example_scores(adapted)
    learner = adapted.learner
    for number in range(adapted.n_tasks):
        x, y = task_of(adapted, number)[2:]
        z, classes = features_of(learner, x), classes_of(y)
        n, d = z.shape
        predictions = learner.network(x)
        for j in range(n):
            without = np.delete(z, j, axis=0)
            whole = np.linalg.slogdet(np.eye(d) + d / (n * 0.1**2) * z.T @ z)[1]
            rest = np.linalg.slogdet(np.eye(d) + d / (n * 0.1**2) * without.T @ without)[1]
            mates = z[classes == classes[j]]
            others = np.delete(z, j, axis=0)[np.delete(classes, j) == classes[j]]
            size = len(mates)
            lost = np.linalg.slogdet(np.eye(d) + d / (size * 0.1**2) * mates.T @ mates)[1]
            lost -= np.linalg.slogdet(np.eye(d) + d / (size * 0.1**2) * others.T @ others)[1]
            prediction = predictions[j].detach().requires_grad_()
            (slope,) = torch.autograd.grad(learner.loss(prediction[None], y[j][None]), prediction)
            expected = ((whole - rest) / 2, size / (2 * n) * lost, slope.square().sum().item())
            np.testing.assert_allclose(scores[number, j].numpy(), expected, rtol=1e-8)


class Losses(nn.Module):
    def __init__(self, learner, function):
        super().__init__()
        self.learner, self.function = learner, function

    def forward(self, task):
        return self.function(self.learner, *task)


def held_out_loss(adapted, held_out, weights, eta, loss):
    """The mean loss of held-out tasks after a step on weighted losses, by plain loops."""
    learner = adapted.learner
    parameters = dict(learner.named_parameters())
    total = 0.0
    for number in range(adapted.n_tasks):
        total = total + (weights[number] * loss(learner, *task_of(adapted, number))).sum()
    if weights.dim() == 2:
        total = total / adapted.n_tasks
    gradient = torch.autograd.grad(total, list(parameters.values()), materialize_grads=True)
    ahead = {
        f"learner.{name}": (value - eta * slope).detach()
        for (name, value), slope in zip(parameters.items(), gradient, strict=True)
    }
    losses = [
        functional_call(Losses(learner, adapted_loss), ahead, (task_of(held_out, number),))
        for number in range(held_out.n_tasks)
    ]
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("learner", ["MAML", "ANIL", "ProtoNet"])
@pytest.mark.parametrize(
    ("slopes", "loss"), [(slopes_of_tasks, adapted_loss), (slopes_of_examples, example_losses)]
)
def test_one_step_ahead_is_the_slope_by_finite_differences(learner, slopes, loss):
    torch.manual_seed(0)
    adapted = adapted_of(learner)
    held_out = AdaptedTasks(adapted.learner, TASKS["classification"]("mlp", seed=7))
    shape = adapted.tasks.query.y.shape[: 1 if loss is adapted_loss else 2]
    weights, eta, tiny = torch.rand(shape, dtype=torch.float64).softmax(-1), 0.5, 1e-4
    with torch.no_grad():
        found = slopes(adapted, held_out, weights, eta)
    for place in itertools.islice(np.ndindex(*shape), 8):
        values = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[place] += sign * tiny
            values.append(held_out_loss(adapted, held_out, moved, eta, loss))
        assert found[place].item() == pytest.approx((values[0] - values[1]) / (2 * tiny), rel=1e-5, abs=1e-9)


def test_the_gradient_by_the_network_is_that_of_the_loss_ahead():
    torch.manual_seed(0)
    adapted = adapted_of()
    held_out = AdaptedTasks(adapted.learner, TASKS["classification"]("mlp", seed=7))
    weighting, eta = Weighting(3, hidden=4, lr=0.1, seed=0), 0.5
    nn.init.normal_(weighting.layers[2].weight)
    scores = torch.rand(adapted.n_tasks, 3)
    with torch.no_grad():
        slopes = slopes_of_tasks(adapted, held_out, weighting(scores).softmax(0).double(), eta)
    loss = (slopes * weighting(scores).softmax(0)).sum()
    gradient = flat(torch.autograd.grad(loss, list(weighting.parameters())))
    direction = [torch.randn_like(parameter) for parameter in weighting.parameters()]
    values = []
    for sign in (1, -1):
        moved = Weighting(3, hidden=4, lr=0.1, seed=0)
        with torch.no_grad():
            for new, old, along in zip(moved.parameters(), weighting.parameters(), direction, strict=True):
                new.copy_(old + sign * 1e-2 * along)
            weights = moved(scores).softmax(0).double()
        values.append(held_out_loss(adapted, held_out, weights, eta, adapted_loss))
    assert (gradient @ flat(direction)).item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2)


def test_a_weighting_standardizes_and_starts_without_preference():
    torch.manual_seed(0)
    weighting = Weighting(2, hidden=4, lr=0.1, seed=0)
    scores = torch.randn(6, 2)
    assert torch.equal(weighting(scores), torch.zeros(6))
    nn.init.normal_(weighting.layers[2].weight)
    torch.testing.assert_close(weighting(scores), weighting(3 * scores + 5), rtol=1e-4, atol=1e-5)
    a, _, v = weighting.layers
    s = (scores.numpy() - scores.numpy().mean(0)) / scores.numpy().std(0)
    hidden = np.tanh(s @ a.weight.detach().numpy().T + a.bias.detach().numpy())
    np.testing.assert_allclose(
        weighting(scores).detach().numpy(), (hidden @ v.weight.detach().numpy().T)[:, 0], rtol=1e-4, atol=1e-5
    )
    before = flat(weighting.parameters()).detach().clone()
    weighting.descend(weighting(scores).sum() * torch.inf)
    assert torch.equal(flat(weighting.parameters()), before)


@pytest.mark.parametrize("kind", TASKS)
def test_scores_of_the_scheduler(kind):
    adapted = adapted_of(kind=kind)
    with torch.no_grad():
        scores = scheduler_scores(adapted)
    learner = adapted.learner
    parameters = list(learner.parameters())
    for number in range(adapted.n_tasks):
        x, y, x_query, y_query = task_of(adapted, number)
        a, b = (
            flat(torch.autograd.grad(learner.loss(learner.network(inputs), targets), parameters))
            for inputs, targets in ((x, y), (x_query, y_query))
        )
        loss = adapted_loss(learner, *task_of(adapted, number)).item()
        np.testing.assert_allclose(scores[number].numpy(), (loss, (a @ b).item()), rtol=1e-9)


def orders(probabilities, k):
    """The probability of every order in which k are drawn without repetition."""
    found = {}
    for order in itertools.permutations(range(len(probabilities)), k):
        left, value = 1.0, 1.0
        for place in order:
            value *= probabilities[place] / left
            left -= probabilities[place]
        found[order] = value
    return found


def test_drawing_without_repetition_against_all_orders():
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    logits = torch.from_numpy(probabilities).log() + 3
    expected = orders(probabilities, 2)
    for order, probability in expected.items():
        assert log_probability(logits, torch.tensor(order)).exp().item() == pytest.approx(probability)
    assert sum(expected.values()) == pytest.approx(1)
    n = 20_000
    found = drawn(logits.expand(n, -1), 2, np.random.default_rng(0))
    for order, probability in expected.items():
        share = (found == torch.tensor(order)).all(1).double().mean().item()
        assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / n)


def test_the_gradient_of_the_log_probability():
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: log_probability(x, torch.tensor([3, 0, 4])), logits)


@pytest.mark.slow
def test_a_dpp_against_all_subsets():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 2))
    kernel = kernel_of(vectors)
    distances = [np.linalg.norm(vectors[i] - vectors[j]) for i in range(6) for j in range(i)]
    for i, j in np.ndindex(6, 6):
        squared = ((vectors[i] - vectors[j]) ** 2).sum()
        assert kernel[i, j] == pytest.approx(np.exp(-squared / (2 * np.median(distances) ** 2)))
    subsets = list(itertools.combinations(range(6), 3))
    volumes = np.array([np.linalg.det(kernel[np.ix_(subset, subset)]) for subset in subsets])
    expected = volumes / volumes.sum()
    n = 6000
    counts = dict.fromkeys(subsets, 0)
    for _ in range(n):
        counts[tuple(sorted(drawn_diverse(kernel, 3, rng)))] += 1
    for subset, probability in zip(subsets, expected, strict=True):
        spread = np.sqrt(probability * (1 - probability) / n)
        assert abs(counts[subset] / n - probability) < 4 * spread + 1e-5


@pytest.mark.parametrize("k", [4, 60, 90, 150])
@pytest.mark.parametrize("vectors", ["line", "plane", "grid", "words", "cube"])
def test_a_dpp_draws_large_batches(k, vectors):
    """Sums of determinants of that size are 0 or infinite in double precision, unless scaled."""
    rng = np.random.default_rng(0)
    numbers = {"line": 1, "plane": 2, "grid": 2, "words": 3, "cube": 16}
    drawn = rng.normal(size=(3 * k, numbers[vectors]))
    of = {"grid": drawn.round(), "words": (drawn > 0).astype(float)}.get(vectors, drawn)
    assert len(set(drawn_diverse(kernel_of(of), k, rng))) == k


def test_a_dpp_of_equal_tasks_still_draws():
    for vectors in (np.zeros((5, 2)), np.repeat(np.eye(2), [4, 1], axis=0)):
        places = drawn_diverse(kernel_of(vectors), 4, np.random.default_rng(0))
        assert len(set(places)) == 4
