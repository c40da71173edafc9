"""Losses and learners of the user's own: vectorized where that is right, else looped over with a warning."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalens import (
    MAML,
    AdaptedTasks,
    Examples,
    Machine,
    MetaLensError,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    evaluate,
    fit,
    mlp,
)
from metalens.objective import outer_loss

WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def classes() -> Task:
    x, y = torch.randn(4, 6, 1), torch.arange(6).remainder(3).expand(4, 6)
    return Task(Examples(x, y), Examples(x.flip(1), y)).as_batch()


def numbers() -> Task:
    x = torch.randn(4, 6, 1)
    return Task(Examples(x, x.sin().expand(-1, -1, 3)), Examples(x, x.cos().expand(-1, -1, 3))).as_batch()


class Spread(nn.Module):
    """A Gaussian likelihood with a learned spread."""

    def __init__(self):
        super().__init__()
        self.log_spread = nn.Parameter(torch.zeros(()))

    def forward(self, predictions, y):
        return F.gaussian_nll_loss(predictions, y, self.log_spread.exp() * torch.ones_like(predictions))


LOOPED = {
    "class weights and smoothing": (
        lambda p, y: F.cross_entropy(p, y, weight=WEIGHT, label_smoothing=0.1),
        classes,
    ),
    "a module of PyTorch": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), classes),
    "Gaussian likelihood": (Spread(), numbers),
    "a branch on a value": (lambda p, y: (p - y).square().mean() * (1 + float(y.mean() > 0)), numbers),
    "select_scatter": (
        lambda p, y: (torch.select_scatter(p, p[:, 1].sin(), 1, 0) - y).square().mean(),
        numbers,
    ),
}
VECTORIZED = {
    "class weights": (lambda p, y: F.cross_entropy(p, y, weight=WEIGHT), classes),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), classes),
    "Huber": (F.huber_loss, numbers),
    "quantile": (lambda p, y: torch.maximum(0.9 * (y - p), 0.1 * (p - y)).mean(), numbers),
    "focal": (lambda p, y: (1 - F.softmax(p, 1).gather(1, y[:, None])).square().mean(), classes),
    "drawn at random": (lambda p, y: ((p - y).square() * torch.rand_like(p)).mean(), numbers),
}


@pytest.mark.parametrize("name", LOOPED)
def test_losses_that_vmap_fails_or_changes_are_looped_over(name):
    loss, make = LOOPED[name]
    torch.manual_seed(0)
    tasks, learner = make(), MAML(mlp(1, 3), inner_lr=0.1, loss=loss)
    with pytest.warns(UserWarning, match="Tasks will be looped over: .*MAML with the loss"):
        auto = Objective(learner)(tasks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        objective = Objective(learner)
        objective.batching = "loop"
        parameters = list(objective.parameters())
        found, right = (
            torch.autograd.grad(outer_loss(terms), parameters) for terms in (auto, objective(tasks))
        )
    torch.testing.assert_close(found, right)
    with pytest.raises(MetaLensError, match=r"batching='vmap' is not possible: .*the loss"):
        learner.plan("vmap")


def test_a_loss_is_measured_once():
    calls = []

    def loss(p, y):
        calls.append(1)
        return (p - y).square().mean()

    learner, tasks = MAML(mlp(1, 3), loss=loss), numbers()
    counts = []
    for _ in range(3):
        Objective(learner)(tasks)
        counts.append(len(calls))
        calls.clear()
    assert counts[0] > counts[1] == counts[2]


@pytest.mark.parametrize("name", VECTORIZED)
def test_other_losses_are_vectorized(name, recwarn):
    loss, make = VECTORIZED[name]
    torch.manual_seed(0)
    learner = MAML(mlp(1, 3), loss=loss)
    Objective(learner)(make())
    assert learner.plan("auto") == "vmap"
    assert not recwarn.list


def test_fit_and_evaluate_measure_too():
    def loss(p, y):
        return F.gaussian_nll_loss(p, y, torch.ones_like(y))

    torch.manual_seed(0)
    learner = MAML(mlp(), loss=loss)
    with pytest.warns(UserWarning, match="MAML with the loss loss has no vectorized form"):
        evaluate(learner, Sinusoid("test"), n_tasks=3)
    learner = MAML(mlp(), loss=loss)
    with pytest.warns(UserWarning, match="MAML with the loss loss has no vectorized form"):
        fit(Objective(learner), Sinusoid(), steps=1, meta_batch_size=2, machine=Machine(compile=False))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_loss_without_a_second_derivative_is_refused_where_it_needs_one():
    tasks = classes()
    with pytest.raises(
        MetaLensError, match="MAML with the loss multi_margin_loss fails on a task: derivative"
    ):
        Objective(MAML(mlp(1, 3), loss=F.multi_margin_loss))(tasks)
    first_order = MAML(mlp(1, 3), loss=F.multi_margin_loss, first_order=True)
    assert Objective(first_order)(tasks)["query"].isfinite()
    assert Objective(ProtoNet(mlp(1, 3), loss=F.multi_margin_loss))(tasks)["query"].isfinite()


def test_an_own_learner_is_measured():
    class Scattered(MAML):
        def predict_encoded(self, state, z):
            predictions = super().predict_encoded(state, z)
            return torch.select_scatter(predictions, predictions[:, 1].sin(), 1, 0)

    with pytest.warns(UserWarning, match="torch.vmap gives other numbers for Scattered"):
        adapted = AdaptedTasks(Scattered(mlp(1, 3), inner_lr=0.1), numbers())
    assert adapted.outer_losses.shape == (4,)
