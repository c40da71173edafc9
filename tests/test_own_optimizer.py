"""An optimizer, a scheduler and hooks of one's own in `fit`."""

import io
import re
from functools import partial

import pytest
import torch
from rich.console import Console
from torch.optim import lr_scheduler

from metalens import (
    MAML,
    MetaLensError,
    Objective,
    Sinusoid,
    Validation,
    fit,
    mlp,
)
from metalens.training import progress

STEPS = 12
FIT = {"steps": STEPS, "meta_batch_size": 4}


class KilledError(Exception):
    pass


def objective_of(seed=0, cls=MAML):
    torch.manual_seed(seed)
    return Objective(cls(mlp(hidden=[6]), inner_lr=0.01))


def groups_of(objective, make=torch.optim.AdamW, **settings):
    """An optimizer whose head decays and whose backbone does not."""
    network = objective.learner.network
    head = {"params": list(network.head.parameters()), "weight_decay": 0.1, "lr": 0.01}
    return make([{"params": list(network.backbone.parameters()), "weight_decay": 0.0}, head], **settings)


def sequence(optimizer):
    """A scheduler of several, one of which counts its milestones."""
    first = lr_scheduler.LinearLR(optimizer, total_iters=3)
    second = lr_scheduler.MultiStepLR(optimizer, [2, 4])
    return lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[4])


OPTIMIZERS = {
    "AdamW": groups_of,
    "amsgrad": partial(groups_of, amsgrad=True),
    "SGD": partial(groups_of, make=torch.optim.SGD, momentum=0.9, lr=0.01),
    "Adafactor": partial(groups_of, make=torch.optim.Adafactor),
    "NAdam": partial(groups_of, make=torch.optim.NAdam),
    "Rprop": lambda objective: torch.optim.Rprop(objective.parameters()),
    "ASGD": lambda objective: torch.optim.ASGD(objective.parameters()),
}
SCHEDULERS = {
    "none": None,
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS),
    "OneCycleLR of groups": partial(lr_scheduler.OneCycleLR, max_lr=[0.1, 0.2], total_steps=STEPS),
    "SequentialLR": sequence,
    "CyclicLR": partial(lr_scheduler.CyclicLR, base_lr=0.001, max_lr=0.1, step_size_up=3),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=5),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
}
PAIRS = [
    *((name, "none") for name in OPTIMIZERS),
    *(("AdamW", name) for name in SCHEDULERS if name not in ("none", "CyclicLR")),
    ("SGD", "OneCycleLR"),
    ("SGD", "CyclicLR"),
]


def own(optimizer, scheduler):
    return {"optimizer": OPTIMIZERS[optimizer], "scheduler": SCHEDULERS[scheduler]}


@pytest.mark.parametrize(("optimizer", "scheduler"), PAIRS)
def test_fit_is_the_loop_of_that_optimizer_and_scheduler(optimizer, scheduler):
    expected = objective_of()
    stepper = OPTIMIZERS[optimizer](expected)
    rates = None if scheduler == "none" else SCHEDULERS[scheduler](stepper)
    for step in range(STEPS):
        sum(expected(Sinusoid().batch(range(4 * step, 4 * step + 4))).values()).backward()
        stepper.step()
        stepper.zero_grad()
        if rates is not None:
            rates.step()
    found = objective_of()
    fit(found, Sinusoid(), **FIT, **own(optimizer, scheduler))
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("optimizer", "scheduler"), PAIRS)
def test_an_optimizer_of_ones_own_is_resumed_to_the_last_bit(optimizer, scheduler, tmp_path):
    def train(until=None, out="whole", resume=False):
        def kill(step, loss):
            if step == until:
                raise KilledError

        objective = objective_of()
        fit(
            objective, Sinusoid(), out=tmp_path / out, resume=resume, on_step=kill, checkpoint_every=0, **FIT,
            **own(optimizer, scheduler),
        )  # fmt: skip
        return objective.state_dict()

    whole = train()
    with pytest.raises(KilledError):
        train(until=6, out="broken")
    again = train(out="broken", resume=True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": partial(groups_of, lr=0.5)}, "group 0: lr was 0.001 and is 0.5"),
        (
            {"optimizer": groups_of, "scheduler": SCHEDULERS["restarts"]},
            "scheduler was LambdaLR and is Cosine",
        ),
        ({}, "optimizer was AdamW and is Adam"),
    ],
    ids=["rate", "scheduler", "optimizer"],
)
def test_a_training_is_not_resumed_with_another_optimizer(changes, words, tmp_path):
    fit(objective_of(), Sinusoid(), out=tmp_path, optimizer=groups_of, **FIT)
    with pytest.raises(MetaLensError, match=words):
        fit(objective_of(), Sinusoid(), out=tmp_path, resume=True, **FIT, **changes)


REFUSED = {
    "an optimizer that is made": (
        lambda objective: {"optimizer": torch.optim.SGD(objective.parameters())},
        "optimizer must be a function, got SGD; give a function that makes one",
    ),
    "of other parameters": (
        lambda objective: {"optimizer": lambda _: torch.optim.SGD(objective_of().parameters())},
        "The optimizer has parameters that are not of the objective",
    ),
    "no optimizer": (
        lambda objective: {"optimizer": lambda _: None},
        "What optimizer returns must be of type",
    ),
    "no scheduler": (
        lambda objective: {"scheduler": lambda _: None},
        "What scheduler returns must be of type",
    ),
    "a scheduler of another optimizer": (
        lambda objective: {"scheduler": lambda _: lr_scheduler.StepLR(groups_of(objective), 2)},
        "The scheduler is of another optimizer",
    ),
    "with a rate": (
        lambda objective: {"optimizer": groups_of, "outer_lr": 0.1},
        "optimizer replaces the setting",
    ),
    "with a schedule": (
        lambda objective: {"scheduler": SCHEDULERS["restarts"], "schedule": "linear"},
        "scheduler replaces the setting schedule",
    ),
    "with a closure": (
        lambda objective: {"optimizer": lambda o: torch.optim.LBFGS(o.parameters())},
        "LBFGS needs closure for a step",
    ),
    "with a score": (
        lambda objective: {"scheduler": lr_scheduler.ReduceLROnPlateau},
        "ReduceLROnPlateau needs metrics for a step",
    ),
    "a class": (lambda objective: {"optimizer": torch.optim.Adam}, "optimizer must be a function, got type"),
    "without a validation": (
        lambda objective: {"on_validation": lambda step, scores: True},
        "on_validation is called after validations; give validation, too",
    ),
    "a function as bar": (lambda objective: {"progress": print}, "progress must be of type bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_optimizer_of_the_objective_is_refused(name):
    make, words = REFUSED[name]
    objective = objective_of()
    with pytest.raises(MetaLensError, match=re.escape(words)):
        fit(objective, Sinusoid(), **FIT, **make(objective))


def test_hooks_are_told_of_steps_and_validations_and_may_end_the_training():
    steps, validations = [], []

    def on_validation(step, scores):
        validations.append((step, scores["mse"]))
        return step == 6

    curve = fit(
        objective_of(), Sinusoid(), validation=Validation(Sinusoid("val"), n_tasks=3, every=3),
        on_step=lambda step, loss: steps.append(step), on_validation=on_validation, **FIT,
    )  # fmt: skip
    assert steps == [1, 2, 3, 4, 5, 6]
    of_curve = curve[(curve["split"] == "val") & (curve["metric"] == "mse")]
    assert validations == list(zip(of_curve["step"], of_curve["value"], strict=True))


@pytest.mark.parametrize("ending", [KeyboardInterrupt, KilledError])
def test_an_interrupted_training_keeps_the_best_weights(ending, tmp_path):
    def interrupt(step, loss):
        weights.append({name: tensor.clone() for name, tensor in objective.state_dict().items()})
        if step == 9:
            raise ending

    objective, weights, scores = objective_of(), [], {}
    validation = Validation(Sinusoid("val"), n_tasks=5, every=2)
    how = {"validation": validation, "out": tmp_path, "checkpoint_every": 0, "outer_lr": 0.3, **FIT}
    with pytest.raises(ending):
        fit(
            objective,
            Sinusoid(),
            on_step=interrupt,
            on_validation=lambda n, s: scores.update({n: s["mse"]}),
            **how,
        )
    best = min(scores, key=scores.__getitem__) - 1
    kept = objective.state_dict()
    assert all(torch.equal(tensor, weights[best][name]) for name, tensor in kept.items())
    assert not all(torch.equal(tensor, weights[-1][name]) for name, tensor in kept.items())
    assert not (tmp_path / "weights.safetensors").exists()
    again = objective_of()
    assert fit(again, Sinusoid(), resume=True, **how).step.max() == STEPS


def test_a_bar_shows_steps_and_loss(monkeypatch):
    screen, told = io.StringIO(), []
    monkeypatch.setattr(
        progress, "Console", lambda **settings: Console(file=screen, force_terminal=True, width=100)
    )
    fit(objective_of(), Sinusoid(), progress=True, on_step=lambda step, loss: told.append(step), **FIT)
    assert f"{STEPS}/{STEPS}" in screen.getvalue()
    assert "loss" in screen.getvalue()
    assert told == list(range(1, STEPS + 1))
