"""Several objectives that differ in numbers only, computed as one module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens.batching import Batching
from metalens.errors import MetaLensError
from metalens.learners import Learner
from metalens.networks.functional import functional_call
from metalens.objective import Objective, terms_and_gradient, trained_parameters
from metalens.processes import ALONE, Processes
from metalens.settings import settings_of
from metalens.tasks import Task

Tensors = dict[str, Tensor]


class ReplicationError(MetaLensError):
    """Objectives that cannot be computed side by side, only one by one."""


class Replicas(nn.Module):
    """R objectives as one module: `(R, T, ...) tasks -> terms (R,)`, in one vectorized call.

    `terms[r] = objectives[r](tasks[r])`. The objectives may differ in their weights and in settings that are
    real numbers: step sizes, strengths of regularizers. The parameters are the stacked ones, `(R, ...)`, and
    until `release` those of the objectives are views of them: training the replicas trains the objectives.
    The gradient of the sum of the terms is that of each objective, so elementwise optimizers (SGD, Adam) take
    the same steps as with each alone.

    Args:
        objectives: at least one, of equal structure, on one device.

    Raises:
        MetaLensError: they differ in more than numbers, or cannot be vectorized.

    >>> from metalens import MAML, Objective, Sinusoid, mlp, stack_tasks
    >>> replicas = Replicas([Objective(MAML(mlp(), inner_lr=rate)) for rate in (0.01, 0.1)])
    >>> replicas(stack_tasks([Sinusoid().batch(range(4))] * 2))["query"].shape
    torch.Size([2])
    """

    batching: Batching = "vmap"
    chunk: int | None = None
    processes: Processes = ALONE
    communicates: bool = False

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.objectives = tuple(objectives)  # no list of modules: their parameters are not ours
        self._kept = self.objectives
        first = self.objectives[0]
        if first.chunk is not None or first.learner.plan(first.batching) != "vmap":
            raise ReplicationError("Side by side, tasks can neither be looped over nor computed in chunks.")
        self._numbers = differing_numbers(self.objectives)
        self._own_names: dict[str, str] = {}
        tensors = [_tensors(objective) for objective in self.objectives]
        for name, one in tensors[0].items():
            of_all = [of_one[name] for of_one in tensors]
            stacked = torch.stack([tensor.detach() for tensor in of_all])
            self._own_names[name] = own = name.replace(".", "/")
            if isinstance(one, nn.Parameter):
                self.register_parameter(own, nn.Parameter(stacked, requires_grad=one.requires_grad))
            else:
                self.register_buffer(own, stacked)
            for tensor, view in zip(of_all, stacked, strict=True):
                tensor.data = view

    @property
    def learner(self) -> Learner:
        """The learner of the first objective."""
        return self.objectives[0].learner

    def forward(self, tasks: Task) -> Tensors:
        """Return the loss terms by name, `(R,)`, of T tasks for each objective, `(R, T, ...)`."""
        return self.loss_terms(tasks)

    def transform_tasks(self, tasks: Task) -> Task:
        """Return the tasks unchanged: `loss_terms` transforms them."""
        return tasks

    def loss_terms(self, tasks: Task) -> Tensors:
        """Return the loss terms by name; see `forward`."""
        state = {name: getattr(self, own) for name, own in self._own_names.items()}
        numbers = [next(self.parameters()).new_tensor(values) for _, _, values in self._numbers]

        def of_one(state: Tensors, numbers: list[Tensor], tasks: Task) -> Tensors:
            with self._at(numbers):
                return functional_call(self.objectives[0], state, (tasks,))

        return torch.vmap(of_one)(state, numbers, tasks)

    def check(self, tasks: Task, *, tolerance: float = 1e-3) -> None:
        """Compare losses and gradient with those of each objective alone, on tasks `(R, T, ...)`.

        Args:
            tasks: a batch of T tasks for each objective.
            tolerance: of the norm of the difference; mistakes differ by far more than rounding.

        Raises:
            ReplicationError: they differ, or the step draws random numbers, which each objective alone would
                draw differently.
        """
        try:
            terms, gradient = terms_and_gradient(self, tasks, trained_parameters(self))
        except RuntimeError as error:  # of vmap: random numbers, or a branch that depends on a number
            reason = str(error).strip().split("\n")[0]
            raise ReplicationError(f"Side by side, the outer step is not possible: {reason}") from error
        n = len(self.objectives)
        together = torch.cat([part.reshape(n, -1) for part in (*terms.values(), *gradient)], dim=1)
        for number, (objective, own) in enumerate(zip(self.objectives, together, strict=True)):
            part = pytree.tree_map(lambda tensor, number=number: tensor[number], tasks)
            terms, gradient = terms_and_gradient(objective, part, trained_parameters(objective))
            alone = torch.cat([part.flatten() for part in (*terms.values(), *gradient)])
            diverged = not alone.isfinite().all()  # training reports that
            if not diverged and not (own - alone).norm() <= tolerance * alone.norm():
                raise ReplicationError(
                    "Side by side, the outer step differs from that of each objective alone, so something in "
                    "it depends on more than weights, tasks and public settings."
                )

    def keep(self, places: Sequence[int]) -> dict[nn.Parameter, nn.Parameter]:
        """Go on with some of the replicas; return the new parameters by the old ones.

        The objectives of the others have their own weights again. The first objective stays the one that
        computes.
        """
        kept, renewed = tuple(self._kept[place] for place in places), {}
        _release(objective for objective in self._kept if objective not in kept)
        tensors = [_tensors(objective) for objective in kept]
        for name, own in self._own_names.items():
            before = getattr(self, own)
            stacked = before.detach()[list(places)]
            if isinstance(before, nn.Parameter):  # a graph may remember the sizes of the old one
                renewed[before] = nn.Parameter(stacked, requires_grad=before.requires_grad)
            setattr(self, own, renewed.get(before, stacked))
            for of_one, view in zip(tensors, stacked, strict=True):
                of_one[name].data = view
        self._numbers = [
            (owner, name, [values[place] for place in places]) for owner, name, values in self._numbers
        ]
        self._kept = kept
        return renewed

    def release(self) -> None:
        """Give each objective its own weights again, with their present values."""
        _release(self._kept)

    def train(self, mode: bool = True) -> Replicas:
        for objective in self.objectives:
            objective.train(mode)
        return super().train(mode)

    @contextmanager
    def _at(self, numbers: list[Tensor]) -> Iterator[None]:
        """Temporarily set the differing settings on the first objective."""
        before = [getattr(owner, name) for owner, name, _ in self._numbers]
        try:
            for (owner, name, _), number in zip(self._numbers, numbers, strict=True):
                setattr(owner, name, number)
            yield
        finally:
            for (owner, name, _), value in zip(self._numbers, before, strict=True):
                setattr(owner, name, value)


def _release(objectives: Iterable[Objective]) -> None:
    for objective in objectives:
        for tensor in (*objective.parameters(), *objective.buffers()):
            tensor.data = tensor.data.clone()


def _tensors(objective: Objective) -> Tensors:
    return {**dict(objective.named_parameters()), **dict(objective.named_buffers())}


def differing_numbers(objectives: Sequence[Objective]) -> list[tuple[nn.Module, str, list[float]]]:
    """Return the settings that differ: module of the first objective, name, and the value in each objective.

    Raises:
        ReplicationError: something differs that is not a real number.
    """
    kinds = {
        tuple((name, t.shape, t.dtype, t.device, t.requires_grad) for name, t in _tensors(objective).items())
        for objective in objectives
    }
    if len(kinds) > 1:
        raise ReplicationError("Side by side, all objectives need the same parameters.")
    numbers = []
    for modules in zip_longest(*(objective.modules() for objective in objectives)):
        if len({type(module).__name__ for module in modules}) > 1:
            raise ReplicationError("Side by side, all objectives must be made of the same modules.")
        for name in settings_of(modules[0]):
            values = [getattr(module, name, None) for module in modules]
            if len(set(map(repr, values))) == 1:
                continue
            if not all(type(value) in (int, float) for value in values) or not any(
                isinstance(value, float) for value in values
            ):
                raise ReplicationError(
                    f"Side by side, objectives may differ in real numbers only, but {name} of "
                    f"{type(modules[0]).__name__} is {values[0]!r} and {values[1]!r}."
                )
            numbers.append((modules[0], name, values))
    return numbers
