"""The contract of regularizers."""

from collections.abc import Callable, Iterator

from torch import nn

from metalens.learners import MAML, Learner
from metalens.networks import mlp
from metalens.regularizers import Regularizer
from metalens.tasks import Task
from metalens.testing import objectives
from metalens.testing.checks import Check, random_tasks, run_checks
from metalens.testing.objectives import Subject, objective_checks


def small_maml() -> Learner:
    """Return MAML with two steps on a smooth perceptron, for the tasks of `random_tasks()`."""
    return MAML(mlp(5, 3, [8, 7], activation=nn.Softplus), inner_lr=0.1, inner_steps=2)


def check_regularizer(
    factory: Callable[[Learner], Regularizer],
    *,
    learner: Callable[[], Learner] = small_maml,
    tasks: Task | None = None,
    weighted: bool = True,
    random: bool = False,
    vectorizes: bool = True,
    exact_gradient: bool = True,
) -> list[str]:
    """Check that a regularizer keeps the contract of all regularizers, with one learner.

    The outer loss and its gradient are the same for `vmap`, for chunks of tasks and for a loop; the gradient
    is that of finite differences; training changes nothing in place and reaches every parameter; the order
    of tasks does not matter; a `state_dict` holds all state; and with `weight = 0` the learner is plain.

    Args:
        factory: returns a new regularizer for a learner.
        learner: returns a new learner; by default MAML on a perceptron.
        tasks: a batch of 4 tasks that suit the learner; by default `random_tasks()`.
        weighted: whether it has an attribute `weight`, at 0 of which it does nothing.
        random: whether it draws random numbers for each task, so that their order matters.
        vectorizes: see `check_learner`.
        exact_gradient: see `check_learner`; it must hold for the learner too.

    Returns:
        The names of the checks that apply; all hold.

    Raises:
        AssertionError: a check does not hold.

    >>> from metalens import LabelSmoothing
    >>> check_regularizer(lambda learner: LabelSmoothing(weight=0.5))[-1]
    'weight_zero_equals_no_regularizer'
    """
    claims = {"random": random, "vectorizes": vectorizes, "exact_gradient": exact_gradient}
    return run_checks(regularizer_checks(factory, learner=learner, tasks=tasks, weighted=weighted, **claims))


def regularizer_checks(
    factory: Callable[[Learner], Regularizer],
    *,
    learner: Callable[[], Learner] = small_maml,
    tasks: Task | None = None,
    weighted: bool = True,
    random: bool = False,
    vectorizes: bool = True,
    exact_gradient: bool = True,
) -> Iterator[Check]:
    """Yield the checks of `check_regularizer`, to run one by one.

    >>> from metalens import TAML
    >>> checks = {str(check): check for check in regularizer_checks(lambda learner: TAML(weight=0.3))}
    >>> checks["weight_zero_equals_no_regularizer"]()
    """
    batch = random_tasks() if tasks is None else tasks
    subject = Subject(learner, lambda learner: [factory(learner)], batch, vectorizes)
    yield from objective_checks(subject, exact_gradient=exact_gradient, random=random)
    if weighted:
        yield from subject.checks(objectives.weight_zero_equals_no_regularizer)
