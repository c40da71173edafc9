"""The contract of learners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import SkipTest

import torch

from metalens.learners import Learner, NetworkLearner
from metalens.tasks import Task
from metalens.testing import objectives
from metalens.testing.checks import Check, run_checks
from metalens.testing.objectives import Subject, assert_close, permuted, support_of
from metalens.testing.tasks import random_tasks


def check_learner(
    factory: Callable[[], Learner],
    *,
    tasks: Task | None = None,
    vectorizes: bool = True,
    trains: bool = True,
    exact_gradient: bool = True,
) -> list[str]:
    """Check that a learner keeps the contract of all learners.

    Losses and gradients of `vmap`, of chunks of tasks and of a loop are equal; the gradient is that of finite
    differences; training changes nothing in place and reaches every parameter; the order of tasks does not
    matter, nor whether a task comes alone or in a batch, nor whether a graph is recorded; a `state_dict`
    holds all state; and hidden activations lead to the same predictions. Everything is computed in double
    precision, within seconds for a small network. Meanwhile `torch.rand_like` returns numbers that depend on
    the shape alone, as two plans draw in a different order.

    Args:
        factory: returns a new learner. Kinks, such as those of ReLU, spoil finite differences; use a smooth
            network.
        tasks: a batch of 4 tasks that suit the learner; by default `random_tasks()`: three classes and
            inputs of length 5.
        vectorizes: whether it works under `torch.vmap`.
        trains: whether it has meta-parameters that learn from the outer loss.
        exact_gradient: whether its gradient is that of the outer loss; a first-order learner's is not.

    Returns:
        The names of the checks that apply; all hold.

    Raises:
        AssertionError: one does not hold.

    >>> from torch import nn
    >>> from metalens import MAML, mlp
    >>> held = check_learner(lambda: MAML(mlp(5, 3, [4], activation=nn.Softplus), inner_steps=2))
    >>> held[:2]
    ['vmap_and_chunks_equal_loop', 'gradient_equals_finite_difference']
    """
    claims = {"vectorizes": vectorizes, "trains": trains, "exact_gradient": exact_gradient}
    return run_checks(learner_checks(factory, tasks=tasks, **claims))


def learner_checks(
    factory: Callable[[], Learner],
    *,
    tasks: Task | None = None,
    vectorizes: bool = True,
    trains: bool = True,
    exact_gradient: bool = True,
) -> Iterator[Check]:
    """Yield the checks of `check_learner`, to run one by one.

    >>> from metalens import ProtoNet, mlp
    >>> checks = {str(check): check for check in learner_checks(lambda: ProtoNet(mlp(5, 3, [4])))}
    >>> checks["state_dict_round_trip"]()
    """
    batch = random_tasks() if tasks is None else tasks
    subject = Subject(factory, lambda learner: (), batch, "auto" if vectorizes else "loop")
    yield from objective_checks(subject, vectorizes=vectorizes, trains=trains, exact_gradient=exact_gradient)
    yield from subject.checks(
        permuting_tasks_permutes_predictions,
        single_task_equals_its_place_in_the_batch,
        evaluation_without_a_graph_gives_the_same_predictions,
        hidden_activations_lead_to_the_same_predictions,
    )


def objective_checks(
    subject: Subject, *, vectorizes: bool, trains: bool, exact_gradient: bool, random: bool = False
) -> Iterator[Check]:
    """Yield the checks of an outer loss that apply to it; see `check_learner` and `check_regularizer`."""
    if vectorizes:
        yield from subject.checks(objectives.vmap_and_chunks_equal_loop)
    if not trains:
        return
    if exact_gradient:
        yield from subject.checks(objectives.gradient_equals_finite_difference)
    yield from subject.checks(objectives.training_touches_nothing_and_reaches_every_parameter)
    if not random:
        yield from subject.checks(objectives.permuting_tasks_keeps_the_loss)
    yield from subject.checks(objectives.state_dict_round_trip)


def permuting_tasks_permutes_predictions(subject: Subject) -> None:
    """Predictions for a task do not depend on its place in a batch."""
    learner, tasks = subject.objective().learner, subject.tasks
    predictions, others = (
        subject.adapted(learner, batch).query_predictions for batch in (tasks, permuted(tasks))
    )
    said = "Permuting the tasks of a batch must permute the predictions alike."
    assert_close(others, permuted(predictions), said)


def single_task_equals_its_place_in_the_batch(subject: Subject) -> None:
    """A task alone has the predictions that it has in a batch."""
    objective, tasks = subject.objective().eval(), subject.tasks
    predictions = subject.adapted(objective.learner, tasks).query_predictions
    model = objective.learner(support_of(tasks, 2))
    said = "A task alone must have the predictions that it has in a batch."
    assert_close(model(tasks.query.x[2]), predictions[2], said)


def evaluation_without_a_graph_gives_the_same_predictions(subject: Subject) -> None:
    """Under `torch.no_grad`, predictions are the same and keep no graph."""
    objective, tasks = subject.objective().eval(), subject.tasks
    with torch.no_grad():
        predictions = subject.adapted(objective.learner, tasks).query_predictions
    assert not predictions.requires_grad, "Under torch.no_grad, predictions must not require a gradient."
    expected = subject.adapted(objective.learner, tasks).query_predictions.detach()
    assert_close(predictions, expected, "Predictions must be the same under torch.no_grad.")


def hidden_activations_lead_to_the_same_predictions(subject: Subject) -> None:
    """Predictions from the activations after every stage equal those from the inputs."""
    objective, tasks = subject.objective().eval(), subject.tasks
    learner, x = objective.learner, tasks.query.x[0]
    if not isinstance(learner, NetworkLearner) or not learner.from_hidden:
        raise SkipTest("It cannot predict from activations, and says so by `from_hidden = False`.")
    state = learner.adapt(support_of(tasks, 0))
    for layer in range(learner.network.depth + 1):
        hidden = learner.hidden(state, x, layer)
        said = f"Predictions from the activations after {layer} stages must equal those from the inputs."
        assert_close(learner.predict_hidden(state, hidden, layer), learner.predict(state, x), said)
