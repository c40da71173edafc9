"""The contract of learners."""

import warnings
from collections.abc import Callable, Iterator
from unittest import SkipTest

import torch
from torch import Tensor

from metalens.learners import Learner, NetworkLearner
from metalens.networks.norm import uses_batch_statistics
from metalens.relations.vectors import TaskVector, task_vectors, vector_length
from metalens.tasks import Examples, Task
from metalens.testing.checks import Check, random_tasks, run_checks
from metalens.testing.objectives import Subject, assert_close, objective_checks, permuted, support_of


def check_learner(
    factory: Callable[[], Learner],
    *,
    tasks: Task | None = None,
    vectorizes: bool = True,
    trains: bool = True,
    exact_gradient: bool = True,
    adapts: bool = True,
) -> list[str]:
    """Check that a learner keeps the contract of all learners.

    Losses and gradients of `vmap`, of chunks of tasks and of a loop are equal; the gradient is that of finite
    differences; training changes nothing in place and reaches every parameter; the order of tasks does not
    matter, nor whether a task comes alone or in a batch, nor whether a graph is recorded; a `state_dict`
    holds all state; hidden activations give the same predictions; `min_support` examples are enough; and the
    support decides what is predicted.
    Everything is computed in double precision, within seconds for a small network. Meanwhile
    `torch.rand_like` returns numbers that depend on the shape alone, as two plans draw in a different order.

    Args:
        factory: returns a new learner. Kinks, such as those of ReLU, spoil finite differences; use a smooth
            network.
        tasks: a batch of 4 tasks that suit the learner; by default `random_tasks()`: three classes and
            inputs of length 5.
        vectorizes: whether it works under `torch.vmap`.
        trains: whether it has meta-parameters that learn from the outer loss.
        exact_gradient: whether its gradient is that of the outer loss; a first-order learner's is not.
        adapts: whether its predictions depend on the support; one model for all tasks' do not.

    Returns:
        The names of the checks that apply; all hold.

    Raises:
        AssertionError: a check does not hold.

    >>> from torch import nn
    >>> from metalens import MAML, mlp
    >>> held = check_learner(lambda: MAML(mlp(5, 3, [4], activation=nn.Softplus), inner_steps=2))
    >>> held[:2]
    ['vmap_and_chunks_equal_loop', 'gradient_equals_finite_difference']
    """
    claims = {"vectorizes": vectorizes, "trains": trains, "exact_gradient": exact_gradient, "adapts": adapts}
    return run_checks(learner_checks(factory, tasks=tasks, **claims))


def learner_checks(
    factory: Callable[[], Learner],
    *,
    tasks: Task | None = None,
    vectorizes: bool = True,
    trains: bool = True,
    exact_gradient: bool = True,
    adapts: bool = True,
) -> Iterator[Check]:
    """Yield the checks of `check_learner`, to run one by one.

    >>> from metalens import ProtoNet, mlp
    >>> checks = {str(check): check for check in learner_checks(lambda: ProtoNet(mlp(5, 3, [4])))}
    >>> checks["state_dict_round_trip"]()
    """
    batch = random_tasks() if tasks is None else tasks
    subject = Subject(factory, lambda learner: (), batch, vectorizes)
    yield from objective_checks(subject, trains=trains, exact_gradient=exact_gradient)
    yield from subject.checks(
        permuting_tasks_permutes_predictions,
        single_task_equals_its_place_in_the_batch,
        evaluation_without_a_graph_gives_the_same_predictions,
        hidden_activations_lead_to_the_same_predictions,
        fewest_support_examples_are_enough,
        task_vectors_have_their_lengths,
    )
    if adapts:
        yield from subject.checks(the_support_decides_the_predictions)


def permuting_tasks_permutes_predictions(subject: Subject) -> None:
    """Predictions for a task do not depend on its place in a batch."""
    learner, tasks = subject.objective().learner, subject.tasks
    one, other = (subject.adapted(learner, batch).query_predictions for batch in (tasks, permuted(tasks)))
    assert_close(other, permuted(one), "Permuting the tasks of a batch must permute the predictions alike.")


def single_task_equals_its_place_in_the_batch(subject: Subject) -> None:
    """A task alone has the predictions that it has in a batch."""
    objective, tasks = subject.objective().eval(), subject.tasks
    predictions = subject.adapted(objective.learner, tasks).query_predictions
    alone = predict(objective.learner, support_of(tasks, 2), tasks.query.x[2])
    assert_close(alone, predictions[2], "A task alone must have the predictions that it has in a batch.")


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
        raise SkipTest("It cannot predict from activations (`from_hidden = False`).")
    state = learner.adapt(support_of(tasks, 0))
    for layer in range(learner.network.depth + 1):
        hidden = learner.hidden(state, x, layer)
        message = f"Predictions from the activations after {layer} stages must equal those from the inputs."
        assert_close(learner.predict_hidden(state, hidden, layer), learner.predict(state, x), message)


def fewest_support_examples_are_enough(subject: Subject) -> None:
    """From `min_support` examples, which may be none, predictions are finite."""
    learner, tasks = subject.objective().eval().learner, subject.tasks
    if learner.min_support == 1 and any(map(uses_batch_statistics, learner.modules())):
        raise SkipTest("Its network normalizes by statistics of the support, and one example may have none.")
    examples = Examples(*(tensor[: learner.min_support] for tensor in support_of(tasks, 0)))
    with torch.no_grad():
        predictions = predict(learner, examples, tasks.query.x[0])
        expected = predict(learner, support_of(tasks, 0), tasks.query.x[0])
    assert predictions.shape == expected.shape, "Predictions must have the same shape with few examples."
    assert predictions.isfinite().all(), "Predictions must be finite with min_support examples."


def the_support_decides_the_predictions(subject: Subject) -> None:
    """With the support of another task, the predictions for the same inputs are others."""
    learner, tasks = subject.objective().eval().learner, subject.tasks
    support, x = support_of(tasks, 0), tasks.query.x[0]
    other = Examples(*(tensor[:-1] for tensor in support_of(tasks, 1)))  # whose mean is another, too
    start = learner.adapted_parameters()
    with torch.no_grad():
        own, of_other = predict(learner, support, x), predict(learner, other, x)
        state = learner.adapt(support)
    assert not torch.allclose(own, of_other, rtol=1e-6, atol=1e-9), (
        "Adapting to other examples must change the predictions; pass adapts=False if it is not meant to."
    )
    moved = [name for name, value in start.items() if not torch.equal(state[name], value)]
    assert moved or not start, "Adaptation must move some of the adapted_parameters()."


def task_vectors_have_their_lengths(subject: Subject) -> None:
    """The vectors by which tasks are related are finite and as long as the learner says."""
    learner, tasks = subject.objective().eval().learner, subject.tasks
    if not isinstance(learner, NetworkLearner):
        raise SkipTest("It has no network.")
    adapted = subject.adapted(learner, tasks)
    kinds: tuple[TaskVector, ...] = ("features", "labeled", "adaptation")
    for kind in kinds if learner.adapted_parameters() else kinds[:2]:
        vectors = task_vectors(adapted, kind).detach()
        assert vectors.shape[::2] == (len(tasks.query.x), vector_length(learner, kind)), (
            f"Task vectors of {kind} must be (tasks, slots, {vector_length(learner, kind)}), got "
            f"{tuple(vectors.shape)}."
        )
        assert vectors.isfinite().all(), f"Task vectors of {kind} must be finite."


def predict(learner: Learner, support: Examples, x: Tensor) -> Tensor:
    """Return predictions of the adapted model; that they may depend on each other is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A prediction depends on the other inputs")
        return learner(support)(x)
