"""Mistakes of newcomers in Python end in one sentence, or do what was meant."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from metalens import (
    MAML,
    ArrayTasks,
    Examples,
    FunctionTasks,
    HardMining,
    MetaLensError,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    TaskDistribution,
    TRLearner,
    Validation,
    conv4,
    evaluate,
    fit,
    fit_together,
    mlp,
    stack_tasks,
)
from metalens.relations import Shuffled, Stacked

FIT = {"steps": 2, "meta_batch_size": 4}


class Own(TaskDistribution):
    """Tasks of a function of the random generator."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __getitem__(self, index):
        return self.make(torch.Generator().manual_seed(index))


def real(g, s=5, q=5, d=1):
    x = torch.randn(s + q, d, generator=g)
    y = x.sum(1, keepdim=True)
    return Task(Examples(x[:s], y[:s]), Examples(x[s:], y[s:]))


def classes(g, first=0, dtype=torch.int64):
    x, y = torch.randn(8, 3, generator=g), (torch.arange(8) % 2 + first).to(dtype)
    return Task(Examples(x[:4], y[:4]), Examples(x[4:], y[4:]))


def with_x(change):
    return lambda g: real(g).map(lambda examples: Examples(change(examples.x), examples.y))


def with_y(change):
    return lambda g: real(g).map(lambda examples: Examples(examples.x, change(examples.y)))


def with_nan(values):
    return torch.cat([torch.full_like(values[:1], torch.nan), values[1:]])


def maml(**settings):
    return MAML(mlp(), **settings)


def train(make=real, learner=None, **settings):
    return fit(Objective(learner or maml()), Own(make), **{**FIT, **settings})


def without_gradients():
    with torch.no_grad():
        train()


T = Sinusoid()[0]
ONE, BATCH = Objective(maml()), Sinusoid().batch(range(2))
CLASSIFIER = MAML(mlp(3, 2))

# What is called, and the sentence, in the order of a newcomer's script.
MISTAKES = {
    # Tasks
    "a split of another name": (
        lambda: Sinusoid("validation"),
        "split must be one of train, val, test, got 'v",
    ),
    "a seed that is no whole number": (lambda: Sinusoid(seed=0.5), "seed must be a whole number, got 0.5"),
    "a batch of a number": (lambda: Sinusoid().batch(4), "Task numbers must be whole, got 4; take several"),
    "a slice of tasks": (lambda: Sinusoid()[:3], "Task numbers must be whole, got [slice"),
    "tasks that are pairs": (
        lambda: train(lambda g: tuple(real(g))[:2]),
        "Task 0 of 1 must be of type Task, got tuple; make Task(Examples(x, y), ...)",
    ),
    "a task of tensors": (
        lambda: train(lambda g: Task(real(g).support.x, real(g).query.x)),
        "Task 0 of 1: support must be of type Examples, got Tensor",
    ),
    "tasks of arrays": (
        lambda: train(lambda g: real(g).map(lambda e: Examples(e.x.numpy(), e.y.numpy()))),
        "support.x must be of type Tensor, got ndarray; use torch.tensor or torch.from_numpy",
    ),
    "a function without return": (lambda: train(lambda g: None), "must be of type Task, got NoneType"),
    "a stack of one task": (lambda: stack_tasks(T), "Task 0 of 3 must be of type Task, got Examples"),
    "no function of tasks": (lambda: FunctionTasks([T], n_tasks=9), "a function that makes them, got list"),
    "a data frame as arrays": (lambda: ArrayTasks(pd.DataFrame({"x": [1.0]})), "data frame use TableTasks"),
    # The learner and its network
    "a plain module as network": (lambda: MAML(nn.Linear(1, 1)), "MAML needs a metalens Network, got Linear"),
    "a step size that is text": (lambda: maml(inner_lr="0.1"), "inner_lr must be a number, got '0.1'"),
    "half an inner step": (lambda: maml(inner_steps=2.5), "inner_steps must be a whole number, got 2.5"),
    "a loss by name": (lambda: maml(loss="mse"), "loss must be a function (predictions, y) -> scalar"),
    "a loss as a class": (
        lambda: maml(loss=torch.nn.MSELoss),
        "loss must be a function, got the class MSELoss; give an instance, MSELoss().",
    ),
    "a loss of numbers": (
        lambda: train(learner=maml(loss=lambda p, y: (p - y).square().mean().item())),
        "MAML with the loss <lambda> fails on a task",
    ),
    "a loss without gradient": (
        lambda: train(learner=maml(loss=lambda p, y: (p - y).detach().square().mean())),
        "does not require grad",
    ),
    "a network in place of a learner": (lambda: Objective(mlp()), "must be of type Learner, got Network"),
    "a class in place of a learner": (lambda: Objective(MAML), "must be of type Learner, got the class MAML"),
    "one regularizer without a list": (lambda: Objective(maml(), TRLearner()), "give a list of them"),
    "a class as regularizer": (lambda: Objective(maml(), [TRLearner]), "got the class TRLearner"),
    # Training
    "a learner in place of an objective": (lambda: fit(maml(), Sinusoid(), **FIT), "give Objective(learner)"),
    "a list of tasks": (lambda: fit(ONE, [T, T], **FIT), "tasks must be of type TaskDistribution, got list"),
    "a class of tasks": (lambda: fit(ONE, Sinusoid, **FIT), "got the class Sinusoid"),
    "no steps": (lambda: fit(ONE, Sinusoid(), meta_batch_size=4), "Training needs steps"),
    "a setting of another name": (lambda: train(lr=1e-3), "Training has no setting lr; there are steps,"),
    "steps that are no whole number": (lambda: train(steps=1e3), "steps must be a whole number, got 1000.0"),
    "a rate that is text": (lambda: train(outer_lr="0.1"), "outer_lr must be a number, got '0.1'"),
    "tasks as validation": (lambda: train(validation=Own(real)), "give Validation(tasks)"),
    "a sampler's class": (lambda: train(sampler=HardMining), "sampler must be of type TaskSampler, got the"),
    "a machine by name": (lambda: train(machine="cpu"), "machine must be of type Machine, got str"),
    "a logger by name": (
        lambda: train(loggers="tensorboard"),
        "loggers must be a list of Lightning Fabric's",
    ),
    "no gradients": (without_gradients, "Training needs gradients; leave torch.no_grad()"),
    "one objective together": (lambda: fit_together(ONE, [Sinusoid()], **FIT), "objectives must be of type"),
    "a relation by name": (
        lambda: TRLearner("Cosine"),
        "TRLearner: relation must be of type Relation, got str; give an object, such as Cosine()",
    ),
    "a shuffled relation by name": (
        lambda: Shuffled("Cosine"),
        "Shuffled: relation must be of type Relation",
    ),
    "a relation's prior by name": (lambda: Stacked(toward="Cosine"), "Stacked: toward must be of type Rel"),
    "an objective twice": (
        lambda: fit_together([ONE, ONE], [Sinusoid()] * 2, **FIT),
        "fit_together got an objective twice",
    ),
    # Data that do not fit
    "labels from 1": (
        lambda: train(lambda g: classes(g, first=1), CLASSIFIER),
        "Classes must be numbered from 0 to 1 for 2 outputs, got 2 in task 0",
    ),
    "labels from 1 in validation": (
        lambda: train(classes, CLASSIFIER, validation=Validation(Own(lambda g: classes(g, first=1)))),
        "Classes must be numbered from 0 to 1 for 2 outputs, got 2 in task 0",
    ),
    "labels that are real": (
        lambda: train(lambda g: classes(g, dtype=torch.float32), CLASSIFIER),
        "Real targets must have the shape of the predictions, (4, 2), got (4,)",
    ),
    "labels of another type": (
        lambda: train(lambda g: classes(g, dtype=torch.int32), CLASSIFIER),
        "Class indices must be int64 of shape (4,), got torch.int32",
    ),
    "classes for one output": (lambda: train(classes, MAML(mlp(3, 1))), "Classes need an output each"),
    "real targets for classes": (
        lambda: train(real, ProtoNet(mlp(1, 8))),
        "ProtoNet is a classifier, got real",
    ),
    "real support and classes as queries": (
        lambda: train(lambda g: real(g)._replace(query=Examples(torch.ones(5, 1), torch.zeros(5).long()))),
        "Targets must be real in both sets or classes in both, got torch.float32 in the support",
    ),
    "no query": (lambda: train(lambda g: real(g, q=0)), "Tasks need 1 or more query examples, got 0"),
    "no query to evaluate": (lambda: evaluate(maml(), Own(lambda g: real(g, q=0)), n_tasks=2), "got 0"),
    "no support": (lambda: train(lambda g: real(g, s=0)), "Tasks need 1 or more support examples, got 0"),
    "inputs of another width": (
        lambda: train(lambda g: real(g, d=2)),
        "MAML fails on support.x (4, 5, 2) float32, support.y (4, 5, 1) float32, query.x (4, 5, 2) float32",
    ),
    "inputs of another width to evaluate": (
        lambda: evaluate(maml(), Own(lambda g: real(g, d=2)), n_tasks=2),
        "cannot be multiplied",
    ),
    "inputs without an axis": (lambda: train(with_x(lambda x: x[:, 0])), "MAML fails on support.x (4, 5) f"),
    "vectors for a network of images": (lambda: train(learner=MAML(conv4(2))), "MAML fails on support.x"),
    "whole numbers as inputs": (lambda: train(with_x(torch.Tensor.long)), "support.x (4, 5, 1) int64"),
    "targets without an axis": (lambda: train(with_y(lambda y: y[:, 0])), "(5, 1), got (5,)"),
    "fewer inputs than targets": (
        lambda: train(with_x(lambda x: x[:3])),
        "support has 3 inputs and 5 targets",
    ),
    "a batch in place of a task": (
        lambda: train(lambda g: stack_tasks([real(g)])),
        "fails on support.x (4, 1, 5",
    ),
    "NaN in inputs": (lambda: train(with_x(with_nan)), "support.x of task 0 is not finite; fix the data"),
    # Use
    "a task in place of its support": (
        lambda: maml()(T),
        "got Task; make Examples(x, y), such as task.support",
    ),
    "inputs in place of a support": (lambda: maml()(T.support.x), "must be of type Examples, got Tensor"),
    "a support of arrays": (lambda: maml()(Examples(np.ones((2, 1)), np.ones((2, 1)))), "got ndarray"),
    "an empty support": (lambda: maml()(Examples(*(part[:0] for part in T.support))), "1 or more examples"),
    "a batch of supports": (lambda: maml()(BATCH.support), "MAML fails on x (2, 10, 1) float32"),
    "a support with labels from 1": (
        lambda: CLASSIFIER(Examples(torch.ones(2, 3), torch.tensor([1, 2]))),
        "MAML fails on x (2, 3) float32, y (2,) int64: Target 2 is out of bounds",
    ),
    "an array to predict": (lambda: maml()(T.support)(np.ones((2, 1))), "got ndarray; use torch.tensor"),
    "one input without an axis": (lambda: maml()(T.support)(torch.ones(1)), "MAML fails on x (1,) float32"),
    "a pair to an objective": (lambda: ONE((T.support, T.query)), "must be of type Task, got tuple"),
    "one task to an objective": (lambda: ONE(T), "use tasks.batch(numbers), or stack_tasks([task])"),
    # Evaluation
    "an objective to evaluate": (lambda: evaluate(ONE, Sinusoid()), "such as objective.learner"),
    "a task to evaluate on": (
        lambda: evaluate(maml(), T),
        "tasks must be of type TaskDistribution, got Task",
    ),
    "a metric without a list": (lambda: evaluate(maml(), Sinusoid(), metrics="mse"), "give ['mse']"),
    "an unknown metric": (lambda: Validation(Sinusoid(), metrics=["accuray"]), "no metric 'accuray'"),
    "half a task": (lambda: evaluate(maml(), Sinusoid(), n_tasks=0.5), "n_tasks must be a whole number"),
    "validation on a task": (lambda: Validation(T), "tasks must be of type TaskDistribution, got Task"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name):
    call, words = MISTAKES[name]
    with pytest.raises(MetaLensError, match=re.escape(words)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_evaluation_warns_of_nan_in_data():
    with pytest.warns(UserWarning, match="support.y of task 0 is not finite, and so its scores are not; fix"):
        rows = evaluate(maml(), Own(with_y(with_nan)), n_tasks=2)
    assert rows.value.isna().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_tasks_of_another_precision_are_cast_as_in_evaluation(dtype):
    def cast(g):
        return real(g).map(lambda examples: Examples(examples.x.to(dtype), examples.y.to(dtype)))

    curves = []
    for make in (cast, lambda g: real(g).map(lambda e: Examples(*(part.to(dtype).float() for part in e)))):
        torch.manual_seed(0)
        learner = maml()
        curves.append([train(make, learner), evaluate(learner, Own(make), n_tasks=2)])
    for of_cast, expected in zip(*curves, strict=True):
        pd.testing.assert_frame_equal(of_cast, expected)


def test_a_learner_in_double_precision_is_trained_and_used_in_it():
    torch.manual_seed(0)
    single = maml()
    double = maml().double()
    double.load_state_dict(single.state_dict())
    curves = [train(learner=learner).value.to_numpy() for learner in (single, double)]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    assert double.dtype == torch.float64
    assert double(T.support)(T.query.x).dtype == torch.float64


def test_what_is_given_is_read_without_values_on_the_meta_device():
    learner = maml().to("meta")
    task = stack_tasks([T, T]).map(lambda examples: Examples(*(part.to("meta") for part in examples)))
    assert Objective(learner)(task)["query"].device.type == "meta"
