"""The whole outer step as one compiled program: losses, meta-gradient, clipping and optimizer."""

from typing import Any

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.execution.compiling import GradientStep, Program, compile_refusal, layout
from metalens.execution.replicas import Replicas
from metalens.execution.update import Update
from metalens.objective import Objective, outer_loss, terms_and_gradient
from metalens.tasks import Task

Tensors = dict[str, Tensor]


class WholeStep(nn.Module):
    """An objective whose outer step is one compiled program that changes weights and optimizer in place.

    `tasks -> terms` like `Objective`, without a gradient: it has been used. Programs are made and compared as
    in `CompiledObjective`; while a learner follows a schedule, the same operations run uncompiled.

    Args:
        objective: what is trained.
        update: of all of its weights that are trained.
        backend: see `CompiledObjective`.

    Raises:
        MetaLensError: as in `CompiledObjective`, or `update.refusal` gives a reason.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> objective = Objective(MAML(mlp()))
    >>> weights = list(objective.parameters())
    >>> step = WholeStep(objective, Update(torch.optim.SGD(weights, lr=0.1), weights), backend=None)
    >>> losses = [step(Sinusoid().batch(range(4)))["query"].item() for _ in range(2)]
    >>> losses[1] < losses[0]
    True
    """

    def __init__(
        self, objective: Objective | Replicas, update: Update, *, backend: str | None = "inductor"
    ) -> None:
        super().__init__()
        if (refusal := compile_refusal(objective) or update.refusal) is not None:
            raise MetaLensError(f"The outer step cannot be compiled: {refusal}.")
        self.objective, self.update = objective, update
        self._step = [GradientStep(objective)]  # the list keeps its parameters from being listed twice
        self._norms: list[Tensor] = []  # in a list, as setting a tensor of a module takes its time
        self._backend = backend
        self._programs: dict[Any, Program] = {}

    @property
    def norms(self) -> Tensor:
        """The norms of the gradient in the last step, before clipping, `(R,)`."""
        return self._norms[0]

    def forward(self, tasks: Task) -> Tensors:
        """Take a step, and return the loss terms before it by name; see `Objective.forward`."""
        tasks = self.objective.transform_tasks(tasks)
        (step,) = self._step
        if not self.objective.learner.schedule_finished:
            return self._uncompiled(step, tasks)
        key = layout(tasks), self.update.settings()
        if key not in self._programs:
            self._programs[key] = Program(step, tasks, self._backend, self.update)
        _, terms, self._norms[:] = self._programs[key](step.state(), tasks, self.update.tensors())
        return terms

    def _uncompiled(self, step: GradientStep, tasks: Task) -> Tensors:
        weights = step.state()[: len(step.trained)]
        terms, gradients = terms_and_gradient(step, tasks, weights)
        terms = {name: term.detach() for name, term in terms.items()}
        with torch.no_grad():
            norms = self.update(weights, self.update.tensors(), gradients, outer_loss(terms))
        self._norms[:] = [norms]
        return terms
