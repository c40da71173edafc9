"""The same meta-gradients as the libraries that people come from, where these are installed."""

import pytest
import torch
from torch import nn

from metalens import ANIL, MAML, Examples, Objective, Sinusoid, Task, mlp

LR, STEPS = 0.05, 3


def tasks() -> Task:
    return Sinusoid(k_shot=5).batch(range(4)).map(lambda e: Examples(e.x.double(), e.y.double()))


def network() -> nn.Module:
    torch.manual_seed(0)
    return mlp(1, 1, [8, 8], activation=nn.Tanh).double()


def own(make: type, **settings: object) -> list[torch.Tensor]:
    learner = make(network(), inner_lr=LR, inner_steps=STEPS, **settings)
    return list(torch.autograd.grad(Objective(learner)(tasks())["query"], list(learner.parameters())))


@pytest.mark.parametrize(
    ("make", "settings", "momentum"), [(MAML, {}, 0.0), (MAML, {"inner_momentum": 0.9}, 0.9), (ANIL, {}, 0.0)]
)
def test_agrees_with_higher(make, settings, momentum):
    higher = pytest.importorskip("higher")
    module, batch, total = network(), tasks(), torch.zeros((), dtype=torch.float64)
    adapted = module.head.parameters() if make is ANIL else module.parameters()
    optimizer = torch.optim.SGD(adapted, lr=LR, momentum=momentum)
    for i in range(4):
        with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (model, inner):
            for _ in range(STEPS):
                inner.step(nn.functional.mse_loss(model(batch.support.x[i]), batch.support.y[i]))
            total = total + nn.functional.mse_loss(model(batch.query.x[i]), batch.query.y[i]) / 4
    expected = torch.autograd.grad(total, list(module.parameters()))
    torch.testing.assert_close(own(make, **settings), list(expected))


@pytest.mark.parametrize(
    ("settings", "optimizer", "rtol"),
    [
        ({}, lambda torchopt, module: torchopt.MetaSGD(module, lr=LR), 1e-7),
        ({"inner_momentum": 0.9}, lambda torchopt, net: torchopt.MetaSGD(net, lr=LR, momentum=0.9), 1e-7),
        (
            {"inner_optimizer": "adam", "inner_momentum": 0.9},
            lambda torchopt, module: torchopt.MetaAdam(module, lr=LR, eps=0.0, eps_root=1e-16),
            1e-4,  # its bias correction is in single precision
        ),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_agrees_with_torchopt(settings, optimizer, rtol):
    torchopt = pytest.importorskip("torchopt")
    module, batch, total = network(), tasks(), torch.zeros((), dtype=torch.float64)
    parameters = list(module.parameters())
    inner = optimizer(torchopt, module)
    before = (torchopt.extract_state_dict(module), torchopt.extract_state_dict(inner))
    for i in range(4):
        for _ in range(STEPS):
            inner.step(nn.functional.mse_loss(module(batch.support.x[i]), batch.support.y[i]))
        total = total + nn.functional.mse_loss(module(batch.query.x[i]), batch.query.y[i]) / 4
        torchopt.recover_state_dict(module, before[0])
        torchopt.recover_state_dict(inner, before[1])
    expected = torch.autograd.grad(total, parameters)
    torch.testing.assert_close(own(MAML, **settings), list(expected), rtol=rtol, atol=rtol / 100)
