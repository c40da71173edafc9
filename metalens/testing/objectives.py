"""What holds for the outer loss of every learner with every regularizer."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.adapted_tasks import AdaptedTasks
from metalens.batching import Batching
from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.learners.base import Mode
from metalens.objective import Objective, trained_parameters
from metalens.regularizers import Regularizer
from metalens.tasks import Examples, Task, place
from metalens.testing.checks import Check

Tree = TypeVar("Tree", Task, Tensor)
STEP = 1e-5  # of finite differences; larger ones meet the curvature of Adam where slopes are about 1e-8


@dataclass(frozen=True)
class Subject:
    """What is checked: an objective, rebuilt from one seed for every check, and a batch of 4 tasks.

    Attributes:
        build: returns a new learner.
        regularize: returns new regularizers for it.
        batch: a batch of 4 tasks.
        vectorizes: whether it works under `torch.vmap`; otherwise tasks are looped over.
    """

    build: Callable[[], Learner]
    regularize: Callable[[Learner], Sequence[Regularizer]]
    batch: Task
    vectorizes: bool = True

    @property
    def batching(self) -> Batching:
        """How tasks are mapped by checks that do not compare batchings."""
        return "auto" if self.vectorizes else "loop"

    @property
    def tasks(self) -> Task:
        """The tasks in double precision."""
        return place(self.batch, torch.device("cpu"), torch.float64)

    def objective(
        self, batching: Batching | None = None, chunk: int | None = None, mode: Mode = "reverse"
    ) -> Objective:
        """Return a new objective in double precision, with the same parameters every time."""
        torch.manual_seed(2)
        learner = self.build()
        learner.trusts_vmap = True  # the checks compare all ways themselves
        objective = Objective(learner, self.regularize(learner)).double()
        objective.batching, objective.chunk = batching or self.batching, chunk
        learner.differentiation = mode
        return objective

    def adapted(self, learner: Learner, tasks: Task) -> AdaptedTasks:
        """Return the tasks with the models adapted to them."""
        return AdaptedTasks(learner, tasks, self.batching)

    def gradient(
        self, batching: Batching, chunk: int | None = None, mode: Mode = "reverse"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the outer loss, and its gradient by the names of the trained parameters."""
        objective = self.objective(batching, chunk, mode)
        loss, weights = loss_of(objective, self.tasks), trained(objective)
        if not weights:
            return loss.detach(), {}
        gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        return loss.detach(), dict(zip(weights, gradients, strict=True))

    def checks(self, *properties: Callable[[Subject], None]) -> Iterator[Check]:
        """Yield a check of each property."""
        for check in properties:
            yield Check(check.__name__, lambda check=check: same_draws_in_every_plan()(check)(self))


def objective_checks(
    subject: Subject, *, trains: bool = True, exact_gradient: bool, random: bool = False
) -> Iterator[Check]:
    """Yield the checks of an outer loss that apply to it; see `check_learner` and `check_regularizer`."""
    if subject.vectorizes:
        yield from subject.checks(vmap_and_chunks_equal_loop)
    if not trains:
        return
    if exact_gradient:
        yield from subject.checks(gradient_equals_finite_difference)
    yield from subject.checks(mixed_mode_equals_reverse_mode)
    yield from subject.checks(training_touches_nothing_and_reaches_every_parameter)
    if not random:
        yield from subject.checks(permuting_tasks_keeps_the_loss)
    yield from subject.checks(state_dict_round_trip)


def loss_of(objective: Objective, tasks: Task) -> Tensor:
    """Return the outer loss, with the same random numbers of regularizers every time."""
    torch.manual_seed(3)
    return torch.stack(list(objective(tasks).values())).sum()


def trained(objective: Objective) -> dict[str, Tensor]:
    """Return the parameters that are not frozen, by their names."""
    return {name: p for name, p in objective.named_parameters() if p.requires_grad}


def draws_by_shape(tensor: Tensor) -> Tensor:
    """Replace `torch.rand_like` by numbers that depend on the shape alone."""
    numbers = 0.1 + 0.618034 * torch.arange(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return numbers.frac().view(tensor.shape)


@contextmanager
def same_draws_in_every_plan() -> Iterator[None]:
    """Replace `torch.rand_like`, as each plan draws in another order.

    >>> with same_draws_in_every_plan():
    ...     torch.rand_like(torch.zeros(2))
    tensor([0.1000, 0.7180])
    """
    with mock.patch.object(torch, "rand_like", draws_by_shape):
        yield


def permuted(tree: Tree) -> Tree:
    """Return the tasks in another order."""
    return pytree.tree_map(lambda tensor: tensor[torch.tensor([2, 0, 3, 1])], tree)


def assert_close(got: object, expected: object, message: str, **tolerances: Any) -> None:
    """Raise `AssertionError` with a message and the differences if tensors are not close."""
    torch.testing.assert_close(got, expected, **tolerances, msg=lambda found: f"{message}\n{found}")


def vmap_and_chunks_equal_loop(subject: Subject) -> None:
    """Loss and gradient do not depend on how tasks are mapped."""
    loss, gradients = subject.gradient("loop")
    for chunk in (None, 3):
        try:
            mapped_loss, mapped = subject.gradient("vmap", chunk)
        except (MetaLensError, RuntimeError) as error:
            raise AssertionError(f"It cannot be vectorized; pass vectorizes=False. {error}") from error
        plan = "vmap" if chunk is None else f"vmap in chunks of {chunk}"
        message = f"of {plan} must equal that of a loop over tasks."
        assert_close(mapped_loss, loss, f"The outer loss {message}", rtol=1e-12, atol=1e-12)
        assert_close(mapped, gradients, f"The gradient {message}", rtol=1e-9, atol=1e-11)


def mixed_mode_equals_reverse_mode(subject: Subject) -> None:
    """Loss and gradient do not depend on how an inner loop is differentiated, where there is a choice."""
    if subject.objective().learner.mixed_refusal is not None:
        return
    ways: list[tuple[Batching, int | None]] = [("loop", None), (subject.batching, 3)]
    for batching, chunk in ways:
        loss, gradients = subject.gradient(batching, chunk)
        mixed_loss, mixed = subject.gradient(batching, chunk, "mixed")
        message = "in mixed mode must equal that in reverse mode."
        assert_close(mixed_loss, loss, f"The outer loss {message}", rtol=1e-12, atol=1e-12)
        assert_close(mixed, gradients, f"The gradient {message}", rtol=1e-9, atol=1e-11)


def gradient_equals_finite_difference(subject: Subject) -> None:
    """The gradient is that of the outer loss, in a random direction."""
    objective, tasks = subject.objective(), subject.tasks
    parameters = trained_parameters(objective)
    gradients = torch.autograd.grad(loss_of(objective, tasks), parameters, materialize_grads=True)
    torch.manual_seed(4)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
    difference = _central_difference(objective, tasks, parameters, direction)
    message = (
        "The gradient must be that of the outer loss; pass exact_gradient=False if it is not meant to be, "
        "and use a smooth activation such as Softplus, as kinks spoil finite differences."
    )
    assert_close(slope, difference, message, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def _central_difference(
    objective: Objective, tasks: Task, parameters: Sequence[Tensor], direction: Sequence[Tensor]
) -> Tensor:
    """The five-point rule: its error is of order h^4, as normalization layers curve strongly."""
    values, at = {}, 0
    for position in (-2, -1, 1, 2):
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.add_((position - at) * STEP * d)
        at = position
        values[position] = loss_of(objective, tasks)
    return (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * STEP)


def training_touches_nothing_and_reaches_every_parameter(subject: Subject) -> None:
    """Training and adaptation change no parameter, buffer or task; every parameter has a gradient."""
    objective, tasks = subject.objective(), subject.tasks
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    given = pytree.tree_map(torch.clone, tasks)
    loss_of(objective, tasks).backward()
    objective.learner(support_of(tasks, 0))
    after = objective.state_dict()
    assert before.keys() == after.keys(), "Training must not add or remove parameters or buffers."
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    said = "Forward, backward and adaptation must"
    assert not changed, f"{said} change nothing, but changed {', '.join(changed)}."
    same = all(torch.equal(a, b) for a, b in zip(given.tensors, tasks.tensors, strict=True))
    assert same, f"{said} not change the tasks in place."
    without = [name for name, p in trained(objective).items() if p.grad is None or not p.grad.any()]
    # A bias before batch or instance normalization, and the key bias of attention, cancel exactly.
    without = [name for name in without if not name.endswith("bias") or "head" in name]
    assert not without, (
        f"The outer loss must reach every parameter, but not {', '.join(without)}; freeze these."
    )


def support_of(tasks: Task, number: int) -> Examples:
    """Return the support set of one task."""
    return Examples(tasks.support.x[number], tasks.support.y[number])


def permuting_tasks_keeps_the_loss(subject: Subject) -> None:
    """The outer loss does not depend on the order of tasks in a batch."""
    objective, tasks = subject.objective(), subject.tasks
    message = (
        "The outer loss must not depend on the order of tasks; pass random=True if it draws for each task."
    )
    assert_close(loss_of(objective, permuted(tasks)), loss_of(objective, tasks), message)


def weight_zero_equals_no_regularizer(subject: Subject) -> None:
    """With `weight = 0` the outer loss is the learner's."""
    objective, tasks = subject.objective(), subject.tasks
    for regularizer in objective.regularizers:
        name = type(regularizer).__name__
        assert hasattr(regularizer, "weight"), f"{name} has no attribute `weight`; pass weighted=False."
        regularizer.weight = 0.0  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    plain = subject.adapted(objective.learner, tasks).outer_loss
    assert_close(loss_of(objective, tasks), plain, "With weight 0 the outer loss must be the learner's.")


def state_dict_round_trip(subject: Subject) -> None:
    """An objective that loads a saved state dictionary has the same outer loss."""
    objective, tasks = subject.objective(), subject.tasks
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    other = subject.objective()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    same = torch.equal(loss_of(other, tasks), loss_of(objective, tasks))
    assert same, (
        "A saved and loaded objective must have the same outer loss; keep all state in the state_dict."
    )
