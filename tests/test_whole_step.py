"""The whole outer step as one program: the weights, state and curve of the plain step, and its resuming."""

import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler

from metalens import (
    MAML,
    DivergenceError,
    Machine,
    MAMLPlusPlus,
    Objective,
    Regularizer,
    Sinusoid,
    Validation,
    fit,
    fit_together,
    mlp,
)
from metalens.execution import compiling, plan
from metalens.execution.update import Update
from metalens.execution.whole_step import WholeStep
from metalens.tasks import Examples, Task

STEPS = 8


@pytest.fixture(autouse=True)
def recorded(request, monkeypatch):
    """Run the record itself, as compiling takes seconds."""
    if "compiler" not in request.node.name:
        monkeypatch.setattr(compiling, "_compiled", lambda program, arguments: program)


def objective_of(seed=0, cls=MAML, regularizers=(), **settings):
    torch.manual_seed(seed)
    return Objective(cls(mlp(hidden=[6]), inner_lr=0.01, **settings), regularizers)


def train(objective, *, whole=True, tasks=None, precision="64-true", **settings):
    """Return the curve and the execution."""
    chosen = []
    machine = Machine(accelerator="cpu", compile=whole, precision=precision)
    defaults = {"steps": STEPS, "meta_batch_size": 4, "machine": machine, "on_execution": chosen.append}
    return fit(objective, tasks or Sinusoid(), **{**defaults, **settings}), chosen[0]


def groups(make, objective, **settings):
    """The head has settings of its own, and a bias is not in the optimizer."""
    network = objective.learner.network
    head = {"params": [network.head.weight], "lr": 0.01, "weight_decay": 0.1}
    return make([{"params": list(network.backbone.parameters())}, head], **settings)


OPTIMIZERS = {
    "adam": {"outer_lr": 0.01},
    "sgd": {"outer_optimizer": "sgd", "outer_lr": 0.01, "schedule": "cosine"},
    "linear, clipped, averaged": {"schedule": "linear", "clip_norm": 0.5, "ema": 0.7},
    "AdamW": {"optimizer": partial(groups, AdamW, lr=0.003)},
    "amsgrad": {"optimizer": partial(groups, Adam, amsgrad=True, maximize=True, weight_decay=0.01)},
    "momentum": {"optimizer": partial(groups, SGD, lr=0.001, momentum=0.9, nesterov=True)},
    "a step size of 0": {"scheduler": lambda o: lr_scheduler.LambdaLR(o, lambda step: (step % 3) / 3)},
    "fused": {"optimizer": lambda objective: AdamW(objective.parameters(), fused=True)},
}


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_is_that_of_the_plain_step(settings):
    plain, whole = objective_of(), objective_of()
    expected, _ = train(plain, whole=False, **settings)
    curve, chosen = train(whole, **settings)
    assert chosen.whole
    assert str(chosen) == "vmap, compiled with the optimizer (as asked)"
    torch.testing.assert_close(whole.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(curve.value, expected.value, rtol=1e-6)


def test_a_step_is_that_of_the_optimizer_to_the_last_digits():
    """In double precision; `fit` gives weights back in single precision."""
    for make in (partial(Adam, lr=0.01, weight_decay=0.1), partial(SGD, lr=0.1, momentum=0.9)):
        plain, own = (torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64)) for _ in range(2))
        optimizer, update = make([plain]), Update(make([own]), [own])
        for step in range(20):
            plain.grad = torch.linspace(-3, 2, 5, dtype=torch.float64).sin() * (1 + step)
            optimizer.step()
            with torch.no_grad():
                update([own], update.tensors(), [plain.grad], torch.zeros(()))
        torch.testing.assert_close(own, plain, rtol=1e-12, atol=1e-13)


class Killed(BaseException):
    """Ends a training at some step, as a signal would."""


RESUMED = {
    "adam": {"clip_norm": 0.5, "ema": 0.7, "schedule": "cosine"},
    "sgd": {"outer_optimizer": "sgd"},
    "momentum": {"optimizer": partial(groups, SGD, lr=0.001, momentum=0.9)},
    "validation": {"validation": Validation(Sinusoid("val"), n_tasks=3, every=2), "outer_lr": 0.1},
}


@pytest.mark.parametrize("until", [1, 5])
@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_resuming_is_exact(settings, until, tmp_path):
    assert_resumes(objective_of, settings, until, tmp_path)


@pytest.mark.parametrize("until", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_resuming_is_exact_before_and_after_a_schedule_has_settled(until, tmp_path):
    make = partial(objective_of, cls=MAMLPlusPlus, inner_steps=2, multi_step_until=0.5)
    assert_resumes(make, {}, until, tmp_path)


def assert_resumes(make, settings, until, folder):
    def kill(step, loss):
        if step == until:
            raise Killed

    settings = {**settings, "checkpoint_every": 0, "precision": "32-true"}
    uninterrupted, resumed = make(), make()
    expected, chosen = train(uninterrupted, out=folder / "a", **settings)
    assert chosen.whole
    with pytest.raises(Killed):
        train(make(), out=folder / "b", on_step=kill, **settings)
    curve, again = train(resumed, out=folder / "b", resume=True, **settings)
    assert again == chosen
    assert curve.equals(expected)
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_a_schedule_of_the_learner_runs_the_same_operations_uncompiled():
    plain, whole = (objective_of(cls=MAMLPlusPlus, inner_steps=2, multi_step_until=0.5) for _ in range(2))
    train(plain, whole=False)
    train(whole)
    torch.testing.assert_close(whole.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


class Faulty(Sinusoid):
    """A value of task 9, which is in step 3, is not a number."""

    def batch(self, indices):
        tasks = super().batch(indices)
        for row, index in enumerate(indices):
            if index == 9:
                tasks.query.y[row, 0] = torch.nan
        return tasks


class Rooted(Regularizer):
    """Its gradient is not finite in step 3, though its value is."""

    def loss_terms(self, adapted):
        zero = adapted.learner.network.head.bias.sum() * 0
        is_third = (adapted.tasks.query.x == MARK).any()
        return {"rooted": (zero.square() + torch.where(is_third, 0.0, 1.0)).sqrt()}


MARK = 0.125


class Marked(Sinusoid):
    """Tasks that `Rooted` knows by an input."""

    def batch(self, indices):
        tasks = super().batch(indices)
        for row, index in enumerate(indices):
            if index == 9:
                tasks.query.x[row, 0] = MARK
        return tasks


FAULTS = [(Faulty(), (), "loss"), (Marked(), (Rooted,), "norm of the gradient")]


@pytest.mark.parametrize(("tasks", "regularizers", "what"), FAULTS, ids=["loss", "gradient"])
def test_a_step_that_is_not_finite_ends_training_with_the_weights_before(tasks, regularizers, what):
    objective, before = objective_of(regularizers=[make() for make in regularizers]), {}

    def note(step, loss):
        before.update({name: tensor.clone() for name, tensor in objective.state_dict().items()})

    with pytest.raises(DivergenceError, match=f"The {what} is nan at step 3"):
        train(objective, tasks=tasks, on_step=note, precision="32-true")
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("policy", ["skip", "clip"])
@pytest.mark.parametrize(("tasks", "regularizers", "what"), FAULTS, ids=["loss", "gradient"])
def test_steps_are_skipped_and_clipped_as_plain_ones(policy, tasks, regularizers, what):
    objectives, curves = [], []
    for whole in (False, True):
        objectives.append(objective_of(regularizers=[make() for make in regularizers]))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            curves.append(train(objectives[-1], tasks=tasks, whole=whole, on_nonfinite=policy, ema=0.5)[0])
        assert f"The {what} is nan at step 3" in str(told[0].message)
    for plain, whole in zip(*(objective.parameters() for objective in objectives), strict=True):
        assert plain.isfinite().all()
        torch.testing.assert_close(whole, plain, rtol=1e-6, atol=1e-7)
    assert curves[1][["step", "split", "metric"]].equals(curves[0][["step", "split", "metric"]])


def test_a_replica_that_diverges_ends_alone():
    together, alone = [objective_of(seed) for seed in range(2)], objective_of(0)
    chosen, machine = [], Machine(accelerator="cpu", compile=True)
    settings = {"steps": STEPS, "meta_batch_size": 4, "clip_norm": 1.0}
    curves = fit_together(
        together, [Sinusoid(), Faulty()], machine=machine, on_execution=chosen.append, **settings
    )
    assert str(chosen[0]) == "2 side by side, vmap, compiled with the optimizer (as asked)"
    assert curves[1].iloc[-1].tolist() == [3, "train", "diverged", 1.0]
    curve = fit(alone, Sinusoid(), **settings)
    np.testing.assert_allclose(curves[0].value, curve.value, rtol=1e-4)
    torch.testing.assert_close(together[0].state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-5)


def hooked(objective):
    optimizer = SGD(objective.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def halved(objective):
    weight = objective.learner.network.head.weight

    def halve(weight):
        weight.grad.mul_(0.5)

    weight.register_post_accumulate_grad_hook(halve)
    return SGD(objective.parameters(), lr=0.01)


REFUSED = {
    "RMSprop is none of Adam, AdamW, SGD": {"optimizer": lambda objective: RMSprop(objective.parameters())},
    "dampening makes its first step another one": {
        "optimizer": lambda objective: SGD(objective.parameters(), lr=0.01, momentum=0.9, dampening=0.5)
    },
    "its schedule changes more than the step size": {
        "scheduler": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=STEPS + 1)
    },
    "its hooks would not be called": {"optimizer": hooked},
    "its hooks would not be called ": {"optimizer": halved},
}


@pytest.mark.parametrize(("reason", "settings"), REFUSED.items(), ids=REFUSED)
def test_other_optimizers_run_by_themselves_and_the_reason_is_told(reason, settings):
    plain, compiled = objective_of(), objective_of()
    train(plain, whole=False, **settings)
    _, chosen = train(compiled, **settings)
    words = f"vmap, compiled (as asked; the optimizer is not compiled: {reason.strip()})"
    assert str(chosen) == words
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


def test_settings_that_are_changed_meanwhile_are_followed():
    made = []

    def make(objective):
        made.append(AdamW(objective.parameters(), lr=0.01))
        return made[-1]

    def decay(step, loss):
        if step == STEPS // 2:
            made[-1].param_groups[0]["weight_decay"] = 5.0

    plain, whole = objective_of(), objective_of()
    for objective in (plain, whole):
        train(objective, whole=objective is whole, optimizer=make, on_step=decay)
    torch.testing.assert_close(whole.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


class Idle(MAML):
    """Has a weight on which nothing depends."""

    def __init__(self, network, **settings):
        super().__init__(network, **settings)
        self.idle = torch.nn.Parameter(torch.ones(3))


def test_a_weight_without_a_gradient_does_not_decay():
    objective = objective_of(cls=Idle)
    train(objective, optimizer=lambda o: AdamW(o.parameters(), lr=0.01, weight_decay=10.0))
    assert objective.learner.idle.tolist() == [1.0] * 3


def test_batches_of_other_shapes_get_programs_of_their_own():
    """Also where the strides alone differ, as a compiled program reads memory as it was laid out."""
    objective = objective_of()
    weights = list(objective.parameters())
    step = WholeStep(objective, Update(SGD(weights, lr=1e-3), weights), backend=None)
    tasks = Sinusoid().batch(range(4))
    strided = Task(
        Examples(tasks.support.x.mT.contiguous().mT.repeat(1, 1, 1), tasks.support.y),
        Examples(*(t.transpose(0, 1).contiguous().transpose(0, 1) for t in tasks.query)),
    )
    for batch, n in ((tasks, 1), (tasks, 1), (strided, 2), (Sinusoid().batch(range(3)), 3)):
        step(batch)
        assert len(step._programs) == n


def test_the_trial_takes_the_whole_step_and_leaves_no_trace(monkeypatch, tmp_path):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))
    monkeypatch.setattr(plan, "MIN_COMPILED_SECONDS", 0.0)
    monkeypatch.setattr(plan, "CLEARLY_FASTER", 1e9)
    objectives, chosen, curves = [objective_of() for _ in range(3)], [], []
    for objective in objectives[:2]:  # the second follows the choice in the cache
        machine = Machine(accelerator="cpu", profile=True, batching="vmap")
        curves.append(
            fit(
                objective,
                Sinusoid(),
                steps=100,
                meta_batch_size=4,
                machine=machine,
                on_execution=chosen.append,
            )
        )
    assert [str(one).split(":")[0] for one in chosen] == ["vmap, compiled with the optimizer (measured"] * 2
    assert curves[0].equals(curves[1])
    fit(objectives[2], Sinusoid(), steps=100, meta_batch_size=4)
    torch.testing.assert_close(objectives[0].state_dict(), objectives[2].state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_training_with_the_compiler(tmp_path):
    settings = {"clip_norm": 0.5, "schedule": "linear"}
    plain = objective_of()
    train(plain, whole=False, **settings)
    whole = objective_of()
    train(whole, **settings)
    torch.testing.assert_close(whole.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)
    assert_resumes(objective_of, settings, 5, tmp_path)
