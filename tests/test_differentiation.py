"""Mixed mode: its memory, when it is chosen, and what it refuses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mapping import mapped
from torch import nn

from metalens import (
    IMAML,
    MAML,
    Examples,
    Machine,
    MetaLensError,
    MetaSGD,
    Network,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    TRLearner,
    conv4,
    fit,
    mlp,
)
from metalens.execution import memory
from metalens.execution.compiling import compile_refusal
from metalens.execution.memory import needs_mixed_mode, step_bytes
from metalens.execution.mixed import check_mixed
from metalens.execution.plan import Execution, executable

CURVES = Sinusoid().batch(range(4))
MIXED = Machine(differentiation="mixed")


def huber_twice(predictions, y):
    return F.huber_loss(predictions, y) + F.huber_loss(2 * predictions, y)


def images(n):
    y = torch.arange(5).repeat(n, 1)
    x = torch.rand(n, 5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return Task(Examples(x, y), Examples(x, y))


def in_mode(objective, mode, batching="auto"):
    objective.learner.differentiation = mode
    return mapped(objective, batching)


@pytest.fixture
def available(monkeypatch, tmp_path):
    """Let as much memory be there as the test says."""
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))

    def let(n):
        monkeypatch.setattr(memory, "available_bytes", lambda device: n / memory.SHARE)

    return let


# Copies of the weights for each further inner step: the state and, with learned step sizes, its gradient.
@pytest.mark.parametrize(("learner", "copies"), [(MAML, 1), (MetaSGD, 2)])
@pytest.mark.parametrize(("batching", "n"), [("loop", 1), pytest.param("vmap", 3, marks=pytest.mark.slow)])
def test_a_further_inner_step_keeps_the_weights_alone(learner, copies, batching, n):
    def peak(mode, n_steps):
        torch.manual_seed(0)
        network = conv4(5, n_filters=8, image_size=16)
        return step_bytes(
            in_mode(Objective(learner(network, inner_steps=n_steps)), mode, batching), images(n)
        )

    weights = n * 4 * sum(p.numel() for p in MAML(conv4(5, n_filters=8, image_size=16)).parameters())
    growth = (peak("mixed", 5) - peak("mixed", 3)) / 2
    assert 0 < growth <= 1.02 * copies * weights
    assert peak("reverse", 5) > 1.5 * peak("mixed", 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Objective(MAML(mlp(), inner_steps=14)),
        lambda: Objective(MetaSGD(mlp(), inner_steps=14, inner_optimizer="adam")),
        lambda: Objective(MAML(mlp(), inner_steps=14), [TRLearner()]),
        lambda: mapped(Objective(MAML(mlp(), inner_steps=14)), "loop"),
    ],
    ids=["MAML", "adam", "all pairs", "loop"],
)
def test_memory_of_many_inner_steps_is_told_from_few(make, available):
    objective = make()
    tasks = Sinusoid().batch(range(3))
    needed = step_bytes(objective, Sinusoid().batch([0]) if objective.batching == "loop" else tasks)
    for share, needs in ((1.02, False), (0.98, True)):
        available(share * needed)
        assert needs_mixed_mode(objective, tasks) == needs
    assert (objective.learner.inner_steps, objective.learner.differentiation) == (14, "reverse")


@pytest.mark.slow
def test_auto_is_mixed_mode_where_reverse_mode_does_not_fit(available):
    def chosen(inner_steps, **settings):
        objective, machine = Objective(MAML(mlp(), inner_steps=inner_steps)), Machine(**settings)
        objective.learner.differentiation = machine.mode
        found = executable(objective, CURVES, machine, steps=10)[1]
        assert objective.learner.differentiation == found.differentiation
        return found

    available(math.inf)
    assert chosen(14) == Execution("vmap", False, "by rule", {})
    assert chosen(14, differentiation="mixed").differentiation == "mixed"
    available(1.02 * step_bytes(in_mode(Objective(MAML(mlp(), inner_steps=14)), "mixed"), CURVES))
    found = chosen(14)
    assert str(found).startswith("vmap, mixed mode (by rule; reverse mode would not fit into the ")
    assert chosen(14, differentiation="reverse").differentiation == "reverse"
    available(0)
    for inner_steps in (1, 2):  # of so small a network, mixed mode takes more
        assert chosen(inner_steps).differentiation == "reverse"


def test_auto_stays_in_reverse_mode_where_mixed_mode_is_not_possible(available):
    available(0)
    objective = Objective(MAML(mlp(), inner_steps=3, loss=F.huber_loss))
    found = executable(objective, CURVES, Machine(), steps=10)[1]
    assert found.differentiation == "reverse"
    assert "no derivative in forward mode" in found.reason


def test_trainings_in_both_modes_are_the_same_and_resumed_in_the_same_way(tmp_path):
    def train(mode, steps=4, **settings):
        torch.manual_seed(0)
        objective = Objective(MAML(mlp(), inner_steps=3), [TRLearner()])
        machine = Machine(differentiation=mode, accelerator="cpu")
        ways = []
        curve = fit(objective, Sinusoid(), steps=steps, meta_batch_size=4, seed=1, machine=machine,
                    on_execution=ways.append, **settings)  # fmt: skip
        return curve, objective.state_dict(), ways[0].differentiation

    (curve, weights, _), (other_curve, other_weights, mode) = train("reverse"), train("mixed")
    assert mode == "mixed"
    np.testing.assert_allclose(curve.value, other_curve.value, rtol=1e-4)
    torch.testing.assert_close(weights, other_weights, rtol=1e-3, atol=1e-5)
    train("mixed", out=tmp_path, checkpoint_every=0)
    assert train("auto", out=tmp_path, resume=True)[2] == "mixed"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ProtoNet(mlp(1, 5)), "it does not adapt by gradient steps"),
        (lambda: MAML(mlp(), first_order=True), "its inner gradients are constants"),
        (lambda: IMAML(mlp()), "its inner gradients are constants"),
    ],
    ids=["ProtoNet", "first order", "IMAML"],
)
def test_learners_without_a_differentiated_inner_loop_refuse_mixed_mode(make, words):
    with pytest.raises(MetaLensError, match=f"differentiation='mixed' is not possible for .*{words}"):
        fit(Objective(make()), Sinusoid(), steps=1, meta_batch_size=2, machine=MIXED)


@pytest.mark.parametrize("value", ["forward", "", None])
def test_unknown_ways_to_differentiate_are_refused(value):
    with pytest.raises(MetaLensError, match="differentiation must be 'auto', 'reverse' or 'mixed'"):
        Machine(differentiation=value)


@pytest.mark.parametrize("loss", [F.huber_loss, huber_twice])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_operations_without_forward_mode_are_refused(loss, batching):
    learner = MAML(mlp(), loss=loss)
    learner.trusts_vmap = True
    objective = in_mode(Objective(learner), "mixed", batching)
    with pytest.raises(MetaLensError, match=r"no derivative in forward mode .*differentiation='reverse'"):
        objective(CURVES)["query"].backward()
    in_mode(objective, "reverse", batching)(CURVES)["query"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in learner.parameters())


class Wrong(torch.autograd.Function):
    """A square with a wrong derivative in forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope

    @staticmethod
    def jvp(ctx, direction):
        return ctx.saved_tensors[0] * direction


class Square(nn.Module):
    def forward(self, x):
        return Wrong.apply(x)


def test_wrong_derivatives_in_forward_mode_are_found_before_training():
    network = Network(nn.Sequential(nn.Linear(1, 4), Square()), nn.Linear(4, 1), n_features=4, n_outputs=1)
    with pytest.raises(MetaLensError, match="differs from that in reverse mode"):
        check_mixed(Objective(MAML(network)), CURVES)


def test_mixed_mode_is_not_compiled():
    objective = in_mode(Objective(MAML(mlp())), "mixed")
    assert "mixed mode" in compile_refusal(objective)
    with pytest.raises(MetaLensError, match="compile=True is not possible: its inner loop"):
        executable(objective, CURVES, Machine(compile=True, differentiation="mixed"), steps=1)


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_random_numbers_of_a_step_are_drawn_once(batching):
    network = Network(
        nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.4), nn.Softplus()),
        nn.Linear(8, 1),
        n_features=8,
        n_outputs=1,
    )
    gradients = []
    for mode in ("reverse", "mixed"):
        objective = in_mode(Objective(MAML(network, inner_steps=3)), mode, batching).double()
        tasks = Task.of_tensors([tensor.double() for tensor in CURVES.tensors])
        torch.manual_seed(0)
        loss = objective(tasks)["query"]
        gradients.append(torch.autograd.grad(loss, list(objective.parameters())))
        after = torch.rand(1)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    torch.manual_seed(0)
    mapped(objective, batching)(tasks)["query"].backward()
    assert torch.rand(1) == after  # the backward pass restores the random stream
