"""Contract number one: vmap == chunks == loop == finite differences, for every combination."""

import pytest
import torch
from catalogue import randomize

from metalens import Objective, ReplicationError, Task, stack_tasks
from metalens.execution.compiling import CompiledObjective
from metalens.execution.replicas import Replicas


def gradient(case, batching: str, chunk: int | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    objective: Objective = case.objective(batching, chunk)
    loss = case.loss(objective, case.tasks())
    parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if not parameters:
        return loss.detach(), {}
    gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return loss.detach(), dict(zip(parameters, gradients, strict=True))


def test_vmap_and_chunks_equal_loop(vectorized_case):
    loss, gradients = gradient(vectorized_case, "loop")
    for batching, chunk in (("vmap", None), ("vmap", 3)):
        mapped_loss, mapped = gradient(vectorized_case, batching, chunk)
        torch.testing.assert_close(mapped_loss, loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mapped, gradients, rtol=1e-9, atol=1e-11)


def test_recorded_step_equals_plain_step(compiled_case):
    loss, gradients = gradient(compiled_case, "vmap")
    objective = compiled_case.objective("vmap")
    value = compiled_case.loss(CompiledObjective(objective, backend=None), compiled_case.tasks())
    weights = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    slopes = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    torch.testing.assert_close(value, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dict(zip(weights, slopes, strict=True)), gradients, rtol=1e-9, atol=1e-11)


def test_replicas_equal_each_objective_alone(replicated_case, monkeypatch):
    monkeypatch.undo()  # the true random numbers
    objectives = [replicated_case.objective(), randomize(replicated_case.objective())]
    tasks = stack_tasks([replicated_case.tasks(), replicated_case.tasks()])
    replicas = Replicas(objectives)
    if replicated_case.entry.random or replicated_case.regularizer_entry.random:
        with pytest.raises(ReplicationError, match="Side by side"):
            replicas.check(tasks)
    else:
        replicas.check(tasks, tolerance=1e-9)


def test_gradient_equals_finite_difference(exact_case):
    objective, tasks = exact_case.objective(), exact_case.tasks()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(exact_case.loss(objective, tasks), parameters, materialize_grads=True)
    torch.manual_seed(4)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    difference = central_difference(exact_case, objective, tasks, parameters, direction)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def central_difference(
    case, objective: Objective, tasks: Task, parameters: list, direction: list, h: float = 5e-5
) -> torch.Tensor:
    """The five-point rule: its error is of order h^4, where normalization layers curve strongly."""
    values = {}
    at = 0
    for place in (-2, -1, 1, 2):
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.add_((place - at) * h * d)
        at = place
        values[place] = case.loss(objective, tasks)
    return (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
