"""TAML against its measures written in NumPy, on losses and predictions found without it."""

import math

import numpy as np
import pytest
import torch
from small_networks import N_WAY, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import (
    ANIL,
    MAML,
    TAML,
    AdaptedTasks,
    Examples,
    MetaLensError,
    Network,
    Objective,
    ProtoMAML,
    ProtoNet,
    Reptile,
    Task,
)

INEQUALITIES = ("theil", "generalized_entropy", "atkinson", "gini", "variance_of_logs")


def inequality(losses: list[float], measure: str, alpha: float = 2.0, epsilon: float = 0.5) -> float:
    n, mean = len(losses), sum(losses) / len(losses)
    r = [loss / mean for loss in losses]
    if measure == "theil" or (measure == "generalized_entropy" and alpha == 1):
        return sum(x * math.log(x) for x in r) / n
    if measure == "generalized_entropy" and alpha == 0:
        return -sum(math.log(x) for x in r) / n
    if measure == "generalized_entropy":
        return sum(x**alpha - 1 for x in r) / (n * alpha * (alpha - 1))
    if measure == "atkinson" and epsilon == 1:
        return 1 - math.prod(losses) ** (1 / n) / mean
    if measure == "atkinson":
        return 1 - (sum(x ** (1 - epsilon) for x in losses) / n) ** (1 / (1 - epsilon)) / mean
    if measure == "gini":
        return sum(abs(a - b) for a in losses for b in losses) / (2 * n * sum(losses))
    geometric = math.prod(losses) ** (1 / n)
    return sum((math.log(x) - math.log(geometric)) ** 2 for x in losses) / n


def mean_entropy(logits: np.ndarray) -> float:
    total = 0.0
    for row in logits:
        p = np.exp(row) / np.exp(row).sum()
        total -= sum(x * math.log(x) for x in p)
    return total / len(logits)


def loss_of(predictions: np.ndarray, y: np.ndarray) -> float:
    if y.dtype.kind == "f":
        return float(((predictions - y) ** 2).mean())
    log_p = predictions - np.log(np.exp(predictions).sum(1, keepdims=True))
    return -float(np.mean([log_p[j, label] for j, label in enumerate(y)]))


def initial_losses(network: Network, tasks: Task) -> list[float]:
    pairs = zip(tasks.query.x, tasks.query.y, strict=True)
    return [loss_of(network(x).detach().numpy(), y.numpy()) for x, y in pairs]


def scalar_tasks(*losses: float) -> tuple[Network, Task]:
    """A network whose initial prediction is 0, and tasks on whose queries it has the given losses."""
    network = Network(nn.Identity(), nn.Linear(1, 1, bias=False), n_features=1, n_outputs=1).double()
    nn.init.zeros_(network.head.weight)
    x = torch.ones(len(losses), 2, 1, dtype=torch.float64)
    y = torch.tensor(losses, dtype=torch.float64).sqrt().view(-1, 1, 1).expand(-1, 2, 1)
    return network, Task(Examples(x, 5 * x), Examples(x, y.contiguous()))


def term(learner, tasks: Task, **settings) -> torch.Tensor:
    return TAML(**settings).loss_terms(AdaptedTasks(learner, tasks))["taml"]


@pytest.mark.parametrize("measure", INEQUALITIES)
@pytest.mark.parametrize("make", [MAML, ANIL])
@pytest.mark.parametrize("kind", [classification_tasks, regression_tasks])
def test_inequality_equals_loops(measure, make, kind):
    network, tasks = build_network("mlp"), kind("mlp")
    value = term(make(network, inner_lr=0.3), tasks, measure=measure, weight=0.7)
    expected = 0.7 * inequality(initial_losses(network, tasks), measure)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-9)


@pytest.mark.parametrize("make", [MAML, ANIL])
def test_entropy_equals_loops(make):
    network, tasks = build_network("mlp"), classification_tasks("mlp")
    learner = make(network, inner_lr=0.5, inner_steps=2)
    expected = 0.0
    for i in range(4):
        state = learner.adapt(Examples(tasks.support.x[i], tasks.support.y[i]))
        adapted = learner.predict(state, tasks.query.x[i]).detach().numpy()
        initial = network(tasks.query.x[i]).detach().numpy()
        expected += (mean_entropy(adapted) - mean_entropy(initial)) / 4
    assert abs(expected) > 1e-3
    value = term(learner, tasks, measure="entropy", weight=0.3)
    np.testing.assert_allclose(value.item(), 0.3 * expected, rtol=1e-9)


def test_initial_model_of_protomaml_is_that_of_the_prototypes():
    network, tasks = build_network("mlp"), classification_tasks("mlp")
    losses = []
    for i in range(4):
        support, query = (network.embed(e.x[i]).detach().numpy() for e in tasks[:2])
        labels = tasks.support.y[i].numpy()
        prototypes = np.stack([support[labels == k].mean(0) for k in range(N_WAY)])
        logits = -((query[:, None] - prototypes) ** 2).sum(-1)
        losses.append(loss_of(logits, tasks.query.y[i].numpy()))
    value = term(ProtoMAML(network, inner_lr=0.1), tasks, measure="gini", weight=1.0)
    np.testing.assert_allclose(value.item(), inequality(losses, "gini"), rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"measure": "theil"}, (0.5 * math.log(0.5) + 1.5 * math.log(1.5)) / 2),
        ({"measure": "generalized_entropy"}, 0.125),
        ({"measure": "generalized_entropy", "alpha": 0}, -math.log(0.75) / 2),
        ({"measure": "generalized_entropy", "alpha": 1}, (0.5 * math.log(0.5) + 1.5 * math.log(1.5)) / 2),
        ({"measure": "generalized_entropy", "alpha": -1}, (2 + 2 / 3 - 2) / 2 / 2),
        ({"measure": "generalized_entropy", "alpha": 3}, (0.125 + 3.375 - 2) / 2 / 6),
        ({"measure": "atkinson"}, 1 - ((1 + math.sqrt(3)) / 2) ** 2 / 2),
        ({"measure": "atkinson", "epsilon": 1}, 1 - math.sqrt(3) / 2),
        ({"measure": "atkinson", "epsilon": 2}, 1 - 1.5 / 2),
        ({"measure": "gini"}, 0.25),
        ({"measure": "variance_of_logs"}, (math.log(3) / 2) ** 2),
    ],
)
def test_values_by_hand_for_losses_of_1_and_3(settings, expected):
    network, tasks = scalar_tasks(1.0, 3.0)
    value = term(MAML(network), tasks, weight=1.0, **settings)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-12)


@pytest.mark.parametrize("measure", INEQUALITIES)
def test_inequality_of_equal_losses_is_zero_and_of_a_perfect_task_finite(measure):
    network, tasks = scalar_tasks(2.0, 2.0, 2.0)
    assert abs(term(MAML(network), tasks, measure=measure).item()) < 1e-12
    network, tasks = scalar_tasks(0.0, 2.0)
    value = term(MAML(network), tasks, measure=measure)
    (gradient,) = torch.autograd.grad(value, network.head.weight)
    assert value.item() > 0.01
    assert gradient.isfinite().all()


@pytest.mark.parametrize("measure", ["entropy", *INEQUALITIES])
def test_gradient_reaches_the_initial_model(measure):
    network, tasks = build_network("mlp"), classification_tasks("mlp")
    learner = MAML(network, inner_lr=0.2)
    (gradient,) = torch.autograd.grad(term(learner, tasks, measure=measure), network.head.weight)
    h, values = 1e-5, []
    with torch.no_grad():
        for move in (h, -2 * h):
            network.head.weight[1, 2] += move
            values.append(term(learner, tasks, measure=measure).item())
    assert abs(gradient[1, 2]) > 1e-6
    np.testing.assert_allclose(gradient[1, 2].item(), (values[0] - values[1]) / (2 * h), rtol=1e-5)


def test_defaults():
    regularizer = TAML()
    assert regularizer.measure == "theil"
    assert (regularizer.weight, regularizer.alpha, regularizer.epsilon) == (0.1, 2.0, 0.5)
    assert TAML(weight=0).weight == 0
    assert not list(regularizer.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"measure": "range"},
            "^TAML: measure must be one of entropy, theil, .*variance_of_logs, got 'range'.$",
        ),
        ({"weight": -0.1}, "^TAML: weight must be 0 or more and finite, got -0.1.$"),
        ({"weight": math.inf}, "^TAML: weight must be 0 or more and finite, got inf.$"),
        ({"alpha": math.nan}, "^TAML: alpha must be finite, got nan.$"),
        ({"epsilon": 0}, "^TAML: epsilon must be above 0 and finite, got 0.$"),
        ({"epsilon": math.inf}, "^TAML: epsilon must be above 0 and finite, got inf.$"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(MetaLensError, match=words):
        TAML(**settings)


def test_an_initial_model_classes_and_two_tasks_are_asked_for():
    with pytest.raises(
        MetaLensError, match=r"^TAML needs an initial model, which ProtoNet has not: it does not .*ANIL.$"
    ):
        Objective(ProtoNet(build_network("mlp")), [TAML()])
    with pytest.raises(MetaLensError, match=r"^TAML cannot act on Reptile: it has no outer loss"):
        Objective(Reptile(build_network("mlp")), [TAML()])
    learner = MAML(build_network("mlp"))
    with pytest.raises(
        MetaLensError, match=r"^TAML: measure='entropy' is for classification, got real targets.$"
    ):
        term(learner, regression_tasks("mlp"), measure="entropy")
    alone = Task(*(Examples(e.x[:1], e.y[:1]) for e in classification_tasks("mlp")[:2]))
    Objective(learner, [TAML(measure="entropy")])(alone)
    with pytest.raises(MetaLensError, match="at least 2 tasks, got 1"):
        Objective(learner, [TAML(measure="gini")])(alone)
