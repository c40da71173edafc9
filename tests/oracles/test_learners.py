"""Learners against references written straight from their formulas."""

import numpy as np
import pytest
import torch
from small_networks import N_WAY, classification_tasks
from torch import nn

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    Examples,
    MatchingNet,
    Network,
    Objective,
    ProtoMAML,
    ProtoNet,
    Sinusoid,
    Task,
    mlp,
)


def linear_network() -> Network:
    """y = w x through an identity backbone: the loss is quadratic in w."""
    return Network(nn.Identity(), nn.Linear(1, 1, bias=False), n_features=1, n_outputs=1).double()


def test_maml_on_a_quadratic_equals_the_closed_form():
    """L(w) = mean (w x - y)^2, so w' = w - 2 a (w A - B), and d outer / d w follows by the chain rule."""
    generator = torch.Generator().manual_seed(0)
    xs, ys, xq, yq = torch.randn(4, 3, 7, 1, generator=generator, dtype=torch.float64)
    inner_lr, steps = 0.1, 3
    learner = MAML(linear_network(), inner_lr=inner_lr, inner_steps=steps)
    task = Task(Examples(xs, ys), Examples(xq, yq))
    loss = Objective(learner)(task)["query"]
    (gradient,) = torch.autograd.grad(loss, learner.network.head.weight)

    w = learner.network.head.weight.item()
    xs, ys, xq, yq = (array.squeeze(-1).numpy() for array in (xs, ys, xq, yq))
    second, cross = (xs**2).mean(1), (xs * ys).mean(1)
    adapted, slope = np.full(3, w), np.ones(3)
    for _ in range(steps):
        adapted = adapted - inner_lr * 2 * (adapted * second - cross)
        slope = slope * (1 - 2 * inner_lr * second)
    residual = adapted[:, None] * xq - yq
    np.testing.assert_allclose(loss.item(), (residual**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(gradient.item(), ((2 * residual * xq).mean(1) * slope).mean(), rtol=1e-12)


def clone_and_adapt(learner: MAML, task: Task, number: int, first_order: bool) -> torch.Tensor:
    """MAML as most libraries write it: a list of tensors, `autograd.grad` with `create_graph`."""
    weights = list(learner.network.parameters())
    loss_function = nn.MSELoss()

    def forward(values: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for place in range(0, len(values), 2):
            x = x @ values[place].T + values[place + 1]
            x = x if place == len(values) - 2 else torch.tanh(x)
        return x

    for _ in range(learner.inner_steps):
        loss = loss_function(forward(weights, task.support.x[number]), task.support.y[number])
        gradients = torch.autograd.grad(loss, weights, create_graph=not first_order)
        weights = [w - learner.inner_lr * g for w, g in zip(weights, gradients, strict=True)]
    return loss_function(forward(weights, task.query.x[number]), task.query.y[number])


def test_maml_equals_a_clone_and_adapt_loop():
    tasks = Sinusoid(k_shot=5).batch(range(4)).map(lambda e: Examples(e.x.double(), e.y.double()))
    for first_order in (False, True):
        torch.manual_seed(0)
        network = mlp(1, 1, [8, 8], activation=nn.Tanh).double()
        learner = MAML(network, inner_lr=0.05, inner_steps=3, first_order=first_order)
        loss = Objective(learner)(tasks)["query"]
        reference = sum(clone_and_adapt(learner, tasks, i, first_order) for i in range(4)) / 4
        torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
        parameters = list(learner.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(loss, parameters), torch.autograd.grad(reference, parameters)
        )


def test_first_order_differs_from_second_order():
    tasks = Sinusoid(k_shot=5).batch(range(4))
    gradients = []
    for first_order in (False, True):
        torch.manual_seed(0)
        learner = MAML(mlp(), inner_lr=0.05, inner_steps=3, first_order=first_order)
        gradients.append(
            torch.autograd.grad(Objective(learner)(tasks)["query"], list(learner.parameters()))[0]
        )
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[0].norm()


def test_anil_equals_maml_on_a_network_with_a_frozen_backbone():
    """With features computed beforehand, ANIL on the whole is MAML on the head."""
    torch.manual_seed(0)
    network = mlp(5, N_WAY, [8, 7], activation=nn.Tanh).double()
    tasks = classification_tasks("mlp")
    anil = AdaptedTasks(ANIL(network, inner_lr=0.3, inner_steps=4), tasks).query_predictions
    head = Network(nn.Identity(), network.head, n_features=7, n_outputs=N_WAY)
    features = Task(
        *(Examples(network.embed(e.x.flatten(0, 1)).unflatten(0, e.y.shape), e.y) for e in tasks[:2])
    )
    maml = AdaptedTasks(MAML(head, inner_lr=0.3, inner_steps=4), features).query_predictions
    torch.testing.assert_close(anil, maml)


def test_protonet_equals_numpy():
    torch.manual_seed(0)
    learner = ProtoNet(mlp(5, N_WAY, [8, 7]).double())
    tasks = classification_tasks("mlp")
    predictions = AdaptedTasks(learner, tasks).query_predictions.detach().numpy()
    for number in range(len(predictions)):
        with torch.no_grad():
            support = learner.embed(tasks.support.x[number]).numpy()
            query = learner.embed(tasks.query.x[number]).numpy()
        labels = tasks.support.y[number].numpy()
        for j, features in enumerate(query):
            for k in range(N_WAY):
                prototype = support[labels == k].mean(0)
                expected = -((features - prototype) ** 2).sum()
                np.testing.assert_allclose(predictions[number, j, k], expected, rtol=1e-9)


@pytest.mark.parametrize("make", [ProtoNet, MatchingNet])
def test_a_class_that_a_support_lacks_is_improbable_and_teaches_nothing(make):
    torch.manual_seed(0)
    learner = make(mlp(5, N_WAY, [8, 7]).double())
    tasks = classification_tasks("mlp")
    (x, y), query = (Examples(e.x[0], e.y[0]) for e in tasks[:2])
    known, absent = y != 1, query.y == 1
    assert absent.any()
    assert not absent.all()
    support = Examples(x[known], y[known])
    logits = learner(support)(query.x)
    others = [0, 2]
    # The classes that are there are told apart as if there were no others.
    alone = make(learner.network, n_way=2)(Examples(support.x, support.y // 2))
    torch.testing.assert_close(logits[:, others], alone(query.x))
    torch.testing.assert_close(logits[:, 1].exp(), 1e-6 * logits[:, others].exp().sum(1))

    def gradients(which):
        losses = torch.stack([learner.loss(logits[i : i + 1], query.y[i : i + 1]) for i in which])
        assert losses.isfinite().all()
        return torch.autograd.grad(losses.sum(), list(learner.parameters()), retain_graph=True)

    of_absent, of_known = gradients(absent.nonzero()[:, 0]), gradients((~absent).nonzero()[:, 0])
    assert max(gradient.abs().max() for gradient in of_absent) < 1e-9
    assert max(gradient.abs().max() for gradient in of_known) > 1e-3


def test_proto_maml_makes_a_class_that_a_support_lacks_less_probable():
    torch.manual_seed(0)
    x, y = (part[0] for part in classification_tasks("mlp").support)
    support = Examples(x[y != 1], y[y != 1])
    network = mlp(5, N_WAY, [8, 7]).double()
    chances = [
        ProtoMAML(network, inner_lr=0.1, test_inner_steps=steps)(support)(x).softmax(1)[:, 1].mean()
        for steps in (0, 5)
    ]
    assert chances[1] < chances[0] < 1


def test_test_time_steps_are_used_in_evaluation_only():
    torch.manual_seed(0)
    learner = MAML(mlp(), inner_lr=0.1, inner_steps=1, test_inner_steps=0)
    support = Sinusoid()[0].support
    weight = learner.network.head.weight
    assert not torch.equal(learner.train().adapt(support)["head.weight"], weight)
    assert torch.equal(learner(support).state["head.weight"], weight)
    assert learner.training
