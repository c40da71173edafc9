"""Objects show the settings that they were made with, and tasks their shapes."""

import copy
import inspect
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from catalogue import LEARNER_VARIANTS, LEARNERS, REGULARIZERS, VARIANTS
from torch import nn

from metalens import (
    ANIL,
    KNN,
    MAML,
    R2D2,
    DropoutBins,
    Examples,
    LabelSmoothing,
    ProtoMAML,
    Sinusoid,
    TableTasks,
    Task,
    TRLearner,
    mlp,
)
from metalens.relations import Cosine, Known, Shuffled
from metalens.samplers import Related, Uniform
from metalens.settings import ShowsSettings


def network():
    return mlp(1, 2, [3])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: KNN(2, n_neighbors=3), "KNN(n_outputs=2, n_neighbors=3)"),
        (lambda: KNN(2, n_neighbors=None), "KNN(n_outputs=2)"),
        (lambda: LabelSmoothing(weight=0.25), "LabelSmoothing(weight=0.25)"),
        (lambda: Cosine(temperature=0.5), "Cosine(temperature=0.5)"),
        (lambda: Sinusoid("test", k_shot=5), "Sinusoid(split='test', k_shot=5)"),
        (Sinusoid, "Sinusoid()"),
        (Uniform, "Uniform()"),
        (lambda: Related(neighbors=2), "Related(neighbors=2)"),
    ],
)
def test_objects_without_parts_are_one_line(build, words):
    assert repr(build()) == words
    assert repr(copy.deepcopy(build())) == words
    assert repr(pickle.loads(pickle.dumps(build()))) == words


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: MAML(network(), inner_lr=0.1), "inner_lr=0.1"),
        (lambda: ANIL(network(), inner_steps=1, inner_optimizer="adam"), "inner_optimizer='adam'"),
        (lambda: R2D2(network(), ridge=2.0), "ridge=2.0"),  # where the learned one begins
        (lambda: R2D2(network(), loss=nn.functional.l1_loss), "loss=l1_loss"),
        (lambda: ProtoMAML(network(), inner_steps=3, n_way=2), "n_way=2, inner_steps=3"),
        (lambda: ProtoMAML(network(), inner_steps=1, n_way=2), "n_way=2"),  # the default of a parent class
        (lambda: TRLearner(Cosine(), weight=0.5), "weight=0.5"),
        (lambda: DropoutBins(n_bins=3, p=0.0), "n_bins=3, p=0.0"),
    ],
)
def test_modules_show_their_settings_above_their_parts(build, words):
    module = build()
    assert module.settings_text == words
    assert words in repr(module).splitlines()[len(repr(module).splitlines()) > 1]


def test_parts_are_in_the_tree():
    assert repr(MAML(network(), inner_lr=0.1)).startswith("MAML(\n  inner_lr=0.1\n  (network): Network(\n")
    shown = "TRLearner(\n  weight=0.5\n  (relation): Shuffled(\n    (relation): Known(scale=0.7)\n  )\n)"
    assert repr(TRLearner(Shuffled(Known(scale=0.7)), weight=0.5)) == shown


@pytest.mark.parametrize("name", LEARNERS | LEARNER_VARIANTS)
def test_every_learner_shows_its_settings(name):
    learner = (LEARNERS | LEARNER_VARIANTS)[name].build(network())
    parameters = inspect.signature(type(learner)).parameters
    shown = dict(part.split("=", 1) for part in learner.settings_text.split(", ") if part)
    extra = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert extra or shown.keys() <= parameters.keys()
    assert (repr(learner).count("\n") == 0) == (not list(learner.children()))
    settings = {
        "MAML": {"inner_lr": "0.1", "inner_steps": "2"},
        "ADKF": {"inner_steps": "8", "deviation": "0.2"},
    }
    assert shown == settings.get(name, shown)


@pytest.mark.parametrize("name", REGULARIZERS | VARIANTS)
def test_every_regularizer_shows_its_settings(name):
    for regularizer in (REGULARIZERS | VARIANTS)[name].build(MAML(network())):
        assert repr(regularizer).startswith(type(regularizer).__name__ + "(")


class Own(ShowsSettings):
    def __init__(self, first, *rest, size=1, **further):
        self.size = None


class Derived(Own):
    def __init__(self, *, depth=2):
        super().__init__("x", size=depth)


class Plain(Own):
    pass


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Own("a"), "Own(first='a')"),
        (lambda: Own(1, 2, 3), "Own(first=1, rest=(2, 3))"),
        (lambda: Own(1, size=1, other=[1, "b"]), "Own(first=1, other=[1, 'b'])"),
        (lambda: Own({"a": (1,), 2: None}), "Own(first={'a': (1,), 2: None})"),
        (lambda: Own(np.float64(0.5), size=np.int64(3)), "Own(first=0.5, size=3)"),
        (lambda: Own(Path("folder") / "a.csv"), f"Own(first={str(Path('folder') / 'a.csv')!r})"),
        (lambda: Own(torch.ones(2), size=nn.Linear(1, 1), data=[np.ones(2)]), "Own()"),
        (
            lambda: Own([Sinusoid("val")], kind=MAML, function=len),
            "Own(first=[Sinusoid(split='val')], kind=MAML, function=len)",
        ),
        (lambda: Own(list(range(101)), size={}), "Own(size={})"),
        (lambda: Own("a" * 200), f"Own(first='{'a' * 99}...)"),
        (lambda: Plain(1, size=2), "Plain(first=1, size=2)"),
        (Derived, "Derived()"),
        (lambda: Derived(depth=3), "Derived(depth=3)"),  # and not what it gives to its base
    ],
)
def test_settings_are_those_of_the_call(build, words):
    assert repr(build()) == words


def test_constructors_keep_their_signature_and_their_errors():
    assert list(inspect.signature(Derived).parameters) == ["depth"]
    with pytest.raises(TypeError, match=r"Derived.__init__\(\) got an unexpected keyword argument 'width'"):
        Derived(width=3)
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'first'"):
        Own()


def test_tasks_show_their_shapes():
    one = Examples(torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64))
    assert repr(one) == "Examples(x=(10, 1), y=(10,))"
    assert repr(Task(one, one)) == f"Task(support={one}, query={one})"
    assert repr(Task(one, one, torch.ones(2))) == f"Task(support={one}, query={one}, descriptors=(2,))"
    assert repr(Sinusoid(k_shot=5).batch([0, 1, 2])).startswith(
        "Task(support=Examples(x=(3, 5, 1), y=(3, 5, 1)), "
    )
    assert repr(Examples(None, 1)) == "Examples(x=None, y=1)"  # as of a tree of other values


def test_data_of_a_distribution_is_not_shown():
    frame = pd.DataFrame({"task": np.repeat(list("abcdefgh"), 4), "a": np.arange(32.0), "y": np.arange(32.0)})
    tasks = TableTasks(frame, task="task", target="y", splits=(1, 0, 0), k_shot=2, n_query=2)
    assert repr(tasks) == "TableTasks(task='task', target='y', splits=(1, 0, 0), k_shot=2, n_query=2)"
