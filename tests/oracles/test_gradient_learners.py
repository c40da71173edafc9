"""Learners whose outer gradient runs through their inner steps, against a plain loop."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from plain_loop import KINDS, LR, STEPS, Values, assert_same, loss, network, number, steps, tanh_mlp
from small_networks import N_WAY, classification_tasks, regression_tasks
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
