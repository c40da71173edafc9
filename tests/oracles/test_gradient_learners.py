"""Every gradient-based learner against a plain loop over tasks, steps and layers, by `torch.autograd`.

The references compute with lists of tensors and know nothing of the library: a perceptron with two hidden
layers of tanh units, its weights and biases `W1, b1, W2, b2, W3, b3`.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from catalogue import N_TASKS, N_WAY, classification_tasks, regression_tasks
from mapping import mapped
from torch import Tensor, nn

from metalens import (
    ANIL,
    BOIL,
    IMAML,
    MAML,
    R2D2,
    AdaptedTasks,
    DeepKernelGP,
    DropoutBins,
    Examples,
    FromScratch,
    Learner,
    LinearProbe,
    MAMLPlusPlus,
    MetaLensError,
    MetaMix,
    MetaSGD,
    MTNet,
    Network,
    Objective,
    ProtoMAML,
    ProtoNet,
    Reptile,
    Task,
    TNet,
    TRLearner,
    mlp,
)
from metalens.learners.imaml import _conjugate_gradients

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
    parameters = list(learner.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(own, parameters),
        torch.autograd.grad(expected, parameters, materialize_grads=True),
        rtol=1e-8,
        atol=1e-12,
    )


KINDS = pytest.mark.parametrize(
    "tasks", [classification_tasks("mlp"), regression_tasks("mlp")], ids=["classification", "regression"]
)


@KINDS
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("make", "adapted"),
    [(MAML, range(6)), (ANIL, (4, 5)), (BOIL, (0, 1, 2, 3))],
    ids=["MAML", "ANIL", "BOIL"],
)
def test_maml_anil_boil(make, adapted, first_order, tasks):
    learner = make(network(), inner_lr=LR, inner_steps=STEPS, first_order=first_order)
    values = list(learner.network.parameters())
    rates = [[LR if place in adapted else None for place in range(6)]] * STEPS

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        return loss(tanh_mlp(steps(values, xs, ys, rates=rates, first_order=first_order)[-1], xq), yq)

    assert_same(learner, tasks, reference)


@KINDS
def test_meta_sgd(tasks):
    learner = MetaSGD(network(), inner_lr=LR, inner_steps=STEPS)
    assert all((rate == LR).all() for rate in learner.rates)
    with torch.no_grad():
        for rate in learner.rates:
            rate.add_(0.05 * torch.randn_like(rate))
    values, rates = list(learner.network.parameters()), list(learner.rates)

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        return loss(tanh_mlp(steps(values, xs, ys, rates=[rates] * STEPS)[-1], xq), yq)

    assert_same(learner, tasks, reference)


def with_transforms(transforms: Values) -> Callable[[Values, Tensor], Tensor]:
    def forward(values: Values, x: Tensor) -> Tensor:
        for layer, transform in enumerate(transforms):
            x = (x @ values[2 * layer].T) @ transform.T + values[2 * layer + 1]
            x = x if layer == len(transforms) - 1 else torch.tanh(x)
        return x

    return forward


def shake(parameters: nn.ParameterList) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn_like(parameter))


@KINDS
def test_tnet(tasks):
    learner = TNet(network(), inner_lr=LR, inner_steps=STEPS)
    assert all(torch.equal(t, torch.eye(len(t), dtype=t.dtype)) for t in learner.transforms)
    shake(learner.transforms)
    values, forward = list(learner.network.parameters()), with_transforms(list(learner.transforms))

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        return loss(forward(steps(values, xs, ys, rates=[[LR] * 6] * STEPS, forward=forward)[-1], xq), yq)

    assert_same(learner, tasks, reference)


def test_tnet_transforms_the_channels_of_a_convolution():
    """T behind a convolution is a 1x1 convolution; a grouped one has no T."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Conv2d(3, 3, 1, groups=3), nn.Flatten())
    learner = TNet(Network(backbone, nn.Linear(12, 2), n_features=12, n_outputs=2).double())
    assert [len(t) for t in learner.transforms] == [3, 2]
    shake(learner.transforms)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    first, grouped, head = backbone[0], backbone[1], learner.network.head
    h = F.conv2d(F.conv2d(x, first.weight), learner.transforms[0][:, :, None, None]) + first.bias.view(
        3, 1, 1
    )
    expected = (grouped(h).flatten(1) @ head.weight.T) @ learner.transforms[1].T + head.bias
    torch.testing.assert_close(learner.run(learner.initial_state(x, x), x), expected)


def test_tnet_needs_a_layer():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(MetaLensError, match="TNet needs a linear or convolutional layer that adapts"):
        TNet(Network(Scale(), nn.Identity(), n_features=1, n_outputs=1))


@KINDS
def test_mtnet(tasks, monkeypatch):
    draw = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand_like", lambda tensor: draw[: len(tensor)])
    learner = MTNet(network(), inner_lr=LR, inner_steps=STEPS, mask_temperature=0.7)
    assert all((zeta == 0).all() for zeta in learner.mask_logits)
    shake(learner.transforms)
    shake(learner.mask_logits)
    values, forward = list(learner.network.parameters()), with_transforms(list(learner.transforms))
    rates: list[Tensor | float] = []
    for zeta in learner.mask_logits:
        u = draw[: len(zeta)]
        gumbel = zeta + u.log() - (1 - u).log()
        rates += [LR * (1 / (1 + torch.exp(-gumbel / 0.7))).unsqueeze(1), LR]

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        return loss(forward(steps(values, xs, ys, rates=[rates] * STEPS, forward=forward)[-1], xq), yq)

    assert_same(learner, tasks, reference)


def test_mtnet_draws_a_mask_for_every_task_in_training_and_none_in_testing():
    one = Examples(torch.ones(2, 5, dtype=torch.float64), torch.ones(2, N_WAY, dtype=torch.float64))
    tasks = Task(*(Examples(e.x.expand(3, 2, 5), e.y.expand(3, 2, N_WAY)) for e in (one, one)))
    learner = MTNet(network(), inner_lr=LR)
    trained = AdaptedTasks(learner, tasks).states["head.weight"]
    assert not torch.equal(trained[0], trained[1])
    learner.eval()
    tested = AdaptedTasks(learner, tasks).states["head.weight"]
    torch.testing.assert_close(tested[0], tested[1])
    # At test time logits of 0 let half of each step through.
    whole = AdaptedTasks(TNet(network(), inner_lr=LR / 2), tasks).states["head.weight"]
    torch.testing.assert_close(tested, whole)


@pytest.mark.parametrize("temperature", [0.0, float("inf")])
def test_mtnet_refuses_a_temperature_out_of_range(temperature):
    with pytest.raises(MetaLensError, match="mask_temperature must be above 0 and finite"):
        MTNet(network(), mask_temperature=temperature)
    assert MTNet(network()).mask_temperature == 1.0


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.5, 1.0])
@KINDS
def test_maml_plus_plus(tasks, progress):
    learner = MAMLPlusPlus(
        network(), inner_lr=LR, inner_steps=STEPS, multi_step_until=0.4, first_order_until=0.3
    )
    assert (learner.rates == 1).all()
    shake(nn.ParameterList([learner.rates]))
    learner.set_progress(progress)
    values = list(learner.network.parameters())
    rates = [[LR * learner.rates[place, step] for place in range(6)] for step in range(STEPS)]
    # Of the weights 1/3 a share of 1 - progress / 0.4 is left to the early steps.
    early = {0.0: 1 / 3, 0.2: 1 / 6, 0.5: 0.0, 1.0: 0.0}[progress]

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        after = steps(values, xs, ys, rates=rates, first_order=progress < 0.3)
        losses = [loss(tanh_mlp(state, xq), yq) for state in after]
        return early * losses[0] + early * losses[1] + (1 - 2 * early) * losses[2]

    assert_same(learner, tasks, reference)


def test_maml_plus_plus_in_testing():
    learner = MAMLPlusPlus(network(), inner_lr=LR, inner_steps=2, test_inner_steps=4, multi_step_until=1.0)
    learner.set_progress(0.0)
    shake(nn.ParameterList([learner.rates]))
    tasks = regression_tasks("mlp")
    learner.eval()
    values, r = list(learner.network.parameters()), learner.rates
    rates = [[LR * r[place, step] for place in range(6)] for step in (0, 1, 1, 1)]

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        return loss(tanh_mlp(steps(values, xs, ys, rates=rates)[-1], xq), yq)

    assert_same(learner, tasks, reference)
    assert not any(":" in name for name in learner.adapt(Examples(*number(tasks, 0)[:2])))


def test_maml_plus_plus_defaults_and_limits():
    learner = MAMLPlusPlus(network())
    assert (learner.multi_step_until, learner.first_order_until) == (0.1, 0.0)
    assert not learner.first_order
    learner = MAMLPlusPlus(network(), first_order=True)
    learner.set_progress(1.0)
    assert learner.first_order
    for name in ("multi_step_until", "first_order_until"):
        for share in (-0.1, 1.1):
            with pytest.raises(MetaLensError, match=f"{name} must be from 0 to 1, got {share}"):
                MAMLPlusPlus(network(), **{name: share})
        MAMLPlusPlus(network(), **{name: 1.0})


def test_proto_maml():
    tasks = classification_tasks("mlp")
    learner = ProtoMAML(network(), inner_lr=LR, inner_steps=STEPS)
    body = list(learner.network.parameters())

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        features = torch.tanh(torch.tanh(xs @ body[0].T + body[1]) @ body[2].T + body[3])
        means = torch.stack([features[ys == k].mean(0) for k in range(N_WAY)])
        # Copies, so that the inner gradient of the body does not run through the head's initial values.
        values = [*(value.clone() for value in body), 2 * means, -(means * means).sum(1)]
        return loss(tanh_mlp(steps(values, xs, ys, rates=[[LR] * 6] * STEPS)[-1], xq), yq)

    assert_same(learner, tasks, reference)


def test_proto_maml_starts_as_protonet():
    """Its logits without a step differ from ProtoNet's by a constant of each example."""
    tasks = classification_tasks("mlp")
    learner = ProtoMAML(network(), test_inner_steps=0).eval()
    both = [
        AdaptedTasks(one, tasks).query_predictions.log_softmax(-1) for one in (learner, ProtoNet(network()))
    ]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("make", [ProtoMAML, ProtoNet])
def test_prototypes_need_classes(make):
    name = make.__name__
    with pytest.raises(MetaLensError, match=f"{name} needs at least 2 classes, got n_way=1"):
        make(mlp(5, 1))
    assert make(mlp(5, 1), n_way=2).n_way == 2
    with pytest.raises(MetaLensError, match=f"{name} is a classifier, got real targets"):
        make(network()).adapt(Examples(*number(regression_tasks("mlp"), 0)[:2]))


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


@pytest.mark.parametrize("make", [MetaSGD, MAMLPlusPlus, TNet, MTNet])
def test_a_second_objective_keeps_what_was_learned(make):
    learner = make(mlp(1, 1, [6]))
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1.0)
    before = dict(learner.named_parameters())
    Objective(learner, [TRLearner(), MetaMix()])
    assert all(p is before[name] for name, p in learner.named_parameters())
    Objective(learner, [DropoutBins()])
    assert dict(learner.named_parameters()).keys() != before.keys()


@pytest.mark.parametrize("make", [MAML, ANIL, BOIL, MetaSGD, MAMLPlusPlus, TNet, IMAML, Reptile])
def test_a_frozen_network_is_refused(make):
    with pytest.raises(MetaLensError, match=f"{make.__name__} has nothing to adapt: the parameters that its"):
        make(mlp().requires_grad_(False))


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


def test_what_a_learner_adds_has_the_type_of_the_network():
    for make in (MetaSGD, MAMLPlusPlus, TNet, MTNet, R2D2, DeepKernelGP):
        learner = make(mlp(5, N_WAY, [8]).double())
        assert {p.dtype for p in learner.parameters()} == {torch.float64}


def test_order_of_derivatives_is_a_setting_that_progress_does_not_change():
    learner = MAMLPlusPlus(network(), first_order_until=0.5)
    learner.set_progress(0.0)
    assert (learner.first_order, learner.detaches_gradients) == (False, True)
    learner.set_progress(1.0)
    learner.first_order = True
    learner.set_progress(0.9)
    assert learner.detaches_gradients
