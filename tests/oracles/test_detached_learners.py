"""Learners whose outer gradient does not run through their inner steps, against plain PyTorch."""

import pytest
import torch
from plain_loop import KINDS, LR, Values, assert_same, loss, network, number, tanh_mlp
from small_networks import N_TASKS, N_WAY, regression_tasks
from torch import Tensor, nn

from metalens import (
    IMAML,
    Examples,
    FromScratch,
    LinearProbe,
    MetaLensError,
    Network,
    Objective,
    Reptile,
    Task,
    mlp,
)
from metalens.learners.imaml import _conjugate_gradients


def test_imaml_on_a_quadratic_equals_the_closed_form():
    """L(w) = mean (w x - y)^2, so phi = (2 B + lambda w) / (2 A + lambda): a straight line in w."""
    generator = torch.Generator().manual_seed(0)
    xs, ys, xq, yq = torch.randn(4, N_TASKS, 7, 1, generator=generator, dtype=torch.float64)
    line = Network(nn.Identity(), nn.Linear(1, 1, bias=False), n_features=1, n_outputs=1).double()
    proximity = 3.0
    learner = IMAML(line, proximity=proximity, cg_steps=1, inner_lr=0.15, inner_steps=80)
    own = Objective(learner)(Task(Examples(xs, ys), Examples(xq, yq)))["query"]
    (gradient,) = torch.autograd.grad(own, line.head.weight)
    w = line.head.weight.detach()
    second, cross = xs.square().mean((1, 2)), (xs * ys).mean((1, 2))
    phi = (2 * cross + proximity * w.squeeze()) / (2 * second + proximity)
    residual = phi.view(-1, 1, 1) * xq - yq
    torch.testing.assert_close(own, residual.square().mean())
    slope = proximity / (2 * second + proximity)
    expected = ((2 * residual * xq).mean((1, 2)) * slope).mean()
    torch.testing.assert_close(gradient.squeeze(), expected)


@pytest.mark.parametrize("cg_steps", [1, 30])
def test_imaml_solves_with_the_hessian(cg_steps):
    """(I + H / lambda) u = v, against a dense solve, or one step of steepest descent from v."""
    learner = IMAML(network(), proximity=8.0, cg_steps=cg_steps, inner_lr=0.08, inner_steps=60)
    xs, ys, xq, yq = number(regression_tasks("mlp"), 0)
    values = [p.detach() for p in learner.network.parameters()]
    phi = values
    for _ in range(60):
        phi = [p.requires_grad_() for p in phi]
        pull = sum((p - v).square().sum() for p, v in zip(phi, values, strict=True))
        gradients = torch.autograd.grad(loss(tanh_mlp(phi, xs), ys) + 4.0 * pull, phi)
        phi = [(p - 0.08 * g).detach() for p, g in zip(phi, gradients, strict=True)]
    shapes = [p.shape for p in phi]

    def unflatten(vector: Tensor) -> Values:
        parts = vector.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    flat = torch.cat([p.flatten() for p in phi])
    hessian = torch.autograd.functional.hessian(lambda v: loss(tanh_mlp(unflatten(v), xs), ys), flat)
    v = torch.autograd.functional.jacobian(lambda v: loss(tanh_mlp(unflatten(v), xq), yq), flat)
    matrix = torch.eye(len(flat), dtype=torch.float64) + hessian / 8.0
    residual = v - matrix @ v
    step = (residual @ residual) / (residual @ matrix @ residual)
    expected = torch.linalg.solve(matrix, v) if cg_steps > 1 else v + step * residual
    state = learner.adapt(Examples(xs, ys))
    own = loss(learner.predict(state, xq), yq)
    gradients = torch.autograd.grad(own, list(learner.network.parameters()))
    torch.testing.assert_close(torch.cat([g.flatten() for g in gradients]), expected, rtol=1e-6, atol=1e-9)


def test_conjugate_gradients_stop_at_negative_curvature():
    """The first direction has positive curvature and the second has not: the first step is kept."""
    matrix = torch.diag(torch.tensor([3.0, 1.5, -0.5], dtype=torch.float64))
    v = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    residual = v - matrix @ v
    first = (residual @ residual) / (residual @ matrix @ residual)
    after = residual - first * matrix @ residual
    second = after + (after @ after) / (residual @ residual) * residual
    assert first > 0 > second @ matrix @ second
    for steps in (1, 2, 5):
        (u,) = _conjugate_gradients(lambda d: [matrix @ d[0]], [v], steps)
        torch.testing.assert_close(u, v + first * residual)
    down = -torch.eye(3, dtype=torch.float64)
    (u,) = _conjugate_gradients(lambda d: [down @ d[0]], [v], 5)
    torch.testing.assert_close(u, v)


def test_imaml_defaults_and_limits():
    learner = IMAML(network())
    assert (learner.proximity, learner.cg_steps, learner.inner_lr, learner.inner_steps) == (2.0, 5, 0.1, 16)
    for settings, words in (
        ({"proximity": 0.0}, "proximity must be above 0 and finite, got 0.0"),
        ({"proximity": float("inf")}, "proximity must be above 0 and finite, got inf"),
        ({"cg_steps": 0}, "cg_steps must be at least 1, got 0"),
    ):
        with pytest.raises(MetaLensError, match=words):
            IMAML(network(), **settings)
    assert IMAML(network(), test_inner_steps=2).test_inner_steps == 2


@KINDS
def test_reptile_moves_toward_what_support_and_then_query_lead_to(tasks):
    learner = Reptile(network(), inner_lr=LR, inner_steps=2, inner_optimizer="sgd", inner_momentum=0.5)
    own = Objective(learner)(tasks)["query"]
    values = [p.detach() for p in learner.network.parameters()]
    moves: list[Values] = []
    for i in range(N_TASKS):
        xs, ys, xq, yq = number(tasks, i)
        copies = [value.clone().requires_grad_() for value in values]
        for x, y in ((xs, ys), (xq, yq)):
            optimizer = torch.optim.SGD(copies, lr=LR, momentum=0.5)
            for _ in range(2):
                optimizer.zero_grad()
                loss(tanh_mlp(copies, x), y).backward()
                optimizer.step()
        moves.append([v - c.detach() for v, c in zip(values, copies, strict=True)])
    sizes = [sum(move.square().sum() for move in one) / 2 for one in moves]
    torch.testing.assert_close(own, torch.stack(sizes).mean())
    gradients = torch.autograd.grad(own, list(learner.network.parameters()))
    means = [torch.stack(column).mean(0) for column in zip(*moves, strict=True)]
    torch.testing.assert_close(list(gradients), means)


def test_reptile_defaults():
    learner = Reptile(network())
    assert (learner.inner_lr, learner.inner_steps, learner.test_inner_steps) == (0.001, 5, 5)
    assert (learner.inner_optimizer.name, learner.inner_optimizer.momentum) == ("adam", 0.0)
    assert Reptile(network(), test_inner_steps=9).test_inner_steps == 9


def by_adam(values: Values, x: Tensor, y: Tensor, n_steps: int, lr: float, decay: float = 0.0) -> Values:
    values = [value.detach().clone().requires_grad_() for value in values]
    optimizer = torch.optim.Adam(values, lr=lr)
    for _ in range(n_steps):
        optimizer.zero_grad()
        (loss(tanh_mlp(values, x), y) + decay / 2 * values[0].square().sum()).backward()
        optimizer.step()
    return values


@KINDS
def test_linear_probe_fits_a_new_head_in_testing(tasks):
    learner = LinearProbe(network(), weight_decay=0.3, inner_lr=0.07, inner_steps=20).eval()
    xs, ys, xq, _ = number(tasks, 0)
    with torch.no_grad():
        support, query = learner.embed(xs), learner.embed(xq)
    zeros = [torch.zeros(N_WAY, 7, dtype=torch.float64), torch.zeros(N_WAY, dtype=torch.float64)]
    head = by_adam(zeros, support, ys, n_steps=20, lr=0.07, decay=0.3)
    torch.testing.assert_close(
        learner(Examples(xs, ys))(xq), query @ head[0].T + head[1], rtol=1e-4, atol=1e-5
    )


@KINDS
def test_linear_probe_trains_one_model_for_all_tasks(tasks):
    learner = LinearProbe(network())
    values = list(learner.network.parameters())
    assert_same(learner, tasks, lambda i: loss(tanh_mlp(values, tasks.query.x[i]), tasks.query.y[i]))


def test_linear_probe_has_a_head_for_all_classes_in_training_and_for_a_task_in_testing():
    learner = LinearProbe(network(), n_classes=11)
    examples = Examples(torch.randn(4, 5, dtype=torch.float64), torch.arange(4) % N_WAY)
    learner.double()
    assert learner.predict(learner.adapt(examples), examples.x).shape == (4, 11)
    assert learner(examples)(examples.x).shape == (4, N_WAY)


def test_linear_probe_defaults_and_limits():
    learner = LinearProbe(network())
    assert (learner.weight_decay, learner.inner_lr) == (0.001, 0.05)
    assert (learner.inner_steps, learner.test_inner_steps) == (0, 100)
    with pytest.raises(MetaLensError, match="n_classes must be at least 2, or None, got 1"):
        LinearProbe(network(), n_classes=1)
    with pytest.raises(MetaLensError, match=r"weight_decay must be 0 or more, got -0\.1"):
        LinearProbe(network(), weight_decay=-0.1)
    assert LinearProbe(network(), n_classes=2, weight_decay=0.0).network.n_features == 7


@KINDS
def test_from_scratch_is_training_from_the_same_start(tasks):
    learner = FromScratch(network(), inner_lr=0.03, inner_steps=12)
    xs, ys, xq, _ = number(tasks, 1)
    fitted = by_adam(list(learner.network.parameters()), xs, ys, n_steps=12, lr=0.03)
    torch.testing.assert_close(learner(Examples(xs, ys))(xq), tanh_mlp(fitted, xq), rtol=1e-4, atol=1e-5)
    assert not Objective(learner)(tasks)["query"].requires_grad


def test_from_scratch_defaults():
    assert (FromScratch(network()).inner_lr, FromScratch(network()).inner_steps) == (0.01, 100)


@pytest.mark.parametrize("make", [IMAML, Reptile])
def test_shared_stages_are_refused_where_no_gradient_reaches_them(make):
    stages = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 4))
    shared = Network(stages, nn.Linear(4, 1), n_features=4, n_outputs=1, n_shared=2)
    with pytest.raises(
        MetaLensError, match=f"{make.__name__} cannot train the 2 stages that all tasks share"
    ):
        make(shared)


def test_from_scratch_leaves_the_network_of_the_caller_trainable():
    whole = mlp()
    FromScratch(whole)
    assert all(p.requires_grad for p in whole.parameters())


def test_linear_probe_fits_whatever_the_head_and_leaves_the_network_of_the_caller():
    generator = torch.Generator().manual_seed(0)
    backbone = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
    deep = Network(backbone, nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 3)), n_features=7, n_outputs=3)
    learner = LinearProbe(deep.double(), n_classes=9)
    assert deep(torch.zeros(2, 5, dtype=torch.float64)).shape == (2, 3)
    x = torch.randn(2, 6, 5, generator=generator).double()
    one, other = (Examples(inputs, torch.arange(6) % 3) for inputs in x)
    assert not torch.allclose(learner(one)(one.x), learner(other)(one.x))
    plain = LinearProbe(deep)
    assert not torch.allclose(plain(one)(one.x), plain(other)(one.x))
