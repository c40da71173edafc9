"""A plain loop over tasks, steps and layers, by `torch.autograd`: the reference of gradient-based learners.

It computes with lists of tensors and knows nothing of the library: a perceptron with two hidden layers of
tanh units, its weights and biases `W1, b1, W2, b2, W3, b3`.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from mapping import mapped
from small_networks import N_TASKS, N_WAY, classification_tasks, regression_tasks
from torch import Tensor, nn

from metalens import Learner, Network, Objective, Task, mlp

LR, STEPS = 0.1, 3
Values = list[Tensor]


def network() -> Network:
    torch.manual_seed(0)
    return mlp(5, N_WAY, [8, 7], activation=nn.Tanh).double()


def tanh_mlp(values: Values, x: Tensor) -> Tensor:
    for place in range(0, len(values), 2):
        x = x @ values[place].T + values[place + 1]
        x = x if place == len(values) - 2 else torch.tanh(x)
    return x


def loss(predictions: Tensor, y: Tensor) -> Tensor:
    return (predictions - y).square().mean() if y.is_floating_point() else F.cross_entropy(predictions, y)


def number(tasks: Task, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tasks.support.x[i], tasks.support.y[i], tasks.query.x[i], tasks.query.y[i]


def steps(
    values: Values,
    x: Tensor,
    y: Tensor,
    *,
    rates: list[list[Tensor | float]],
    forward: Callable[[Values, Tensor], Tensor] = tanh_mlp,
    first_order: bool = False,
) -> list[Values]:
    """All values after every step; a rate of `None` keeps a value out of the inner loop."""
    after = []
    for rate in rates:
        places = [place for place, r in enumerate(rate) if r is not None]
        inputs = [values[place] for place in places]
        gradients = torch.autograd.grad(
            loss(forward(values, x), y), inputs, create_graph=not first_order, retain_graph=True
        )
        values = list(values)
        for place, gradient in zip(places, gradients, strict=True):
            values[place] = values[place] - rate[place] * gradient
        after.append(values)
    return after


def assert_same(learner: Learner, tasks: Task, reference: Callable[[int], Tensor]) -> None:
    """The outer loss and all its derivatives equal those of a sum over tasks of the reference."""
    own = mapped(Objective(learner), "vmap")(tasks)["query"]
    expected = sum(reference(i) for i in range(N_TASKS)) / N_TASKS
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=0)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(own, parameters),
        torch.autograd.grad(expected, parameters, materialize_grads=True),
        rtol=1e-8,
        atol=1e-12,
    )


KINDS = pytest.mark.parametrize(
    "tasks", [classification_tasks("mlp"), regression_tasks("mlp")], ids=["classification", "regression"]
)
