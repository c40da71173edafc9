"""Losses and gradients that are not finite: their cause, and clipping."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.adapted_tasks import AdaptedTasks
from metalens.objective import Objective, trained_parameters
from metalens.tasks import TENSORS, Task, place
from metalens.training.settings import OnNonfinite
from metalens.training.step import OuterStep

FAULTS = {"skip": "skipped", "clip": "clipped"}  # metrics of a learning curve that count these steps


def describe_nonfinite(
    step: OuterStep, objective: Objective, place: int, what: str, values: Sequence[float]
) -> str:
    """Return a sentence on what is not finite in a step, the reason and the remedy.

    Args:
        step: as it was computed.
        objective: as it was before the step.
        place: its place among the objectives of the step.
        what: the value that is not finite.
        values: of all objectives.
    """
    tasks = step.choices[place].numbers
    where = f"at step {step.number} (tasks {min(tasks)} to {max(tasks)})"
    cause = find_cause(objective, step.batches[place], tasks, step.terms_of(place))
    return f"The {what} is {', '.join(map(str, values))} {where}: {cause}"


def find_cause(objective: Objective, tasks: Task, numbers: Sequence[int], terms: Mapping[str, float]) -> str:
    """Return what is not finite in a step, and the likely remedy.

    Tasks are examined one by one; the random stream is left unchanged.

    Args:
        objective: as it was before the step.
        tasks: the batch of this process.
        numbers: the tasks of all processes.
        terms: loss terms of the step.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> tasks = Sinusoid().batch(range(2))
    >>> tasks.query.y[1, 0] = torch.nan
    >>> find_cause(Objective(MAML(mlp())), tasks, range(2), {"query": torch.nan})
    'query.y of task 1 is not finite; fix the data'
    """
    processes = objective.processes
    found = processes.gather_objects([_task_cause(objective, tasks, processes.shard(numbers))])
    if known := [words for words in found if words is not None]:
        return known[0]
    broken = [name for name, value in terms.items() if name != "query" and not abs(value) < torch.inf]
    if broken:
        return f"the term {' and '.join(broken)} is not finite; lower its weight, or leave it out"
    return "training diverged, on no task by itself; lower inner_lr or outer_lr, or set clip_norm"


def _task_cause(objective: Objective, tasks: Task, numbers: Sequence[int]) -> str | None:
    """Return the cause in the first task that has one by itself."""
    learner, weights = objective.learner, trained_parameters(objective.learner)
    if not all(weight.isfinite().all() for weight in weights):
        return "training diverged, as its weights are no longer finite; lower outer_lr, or set clip_norm"
    with torch.random.fork_rng():
        for row, number in enumerate(numbers):
            task = pytree.tree_map(lambda tensor, row=row: tensor[row : row + 1], tasks)
            for name, tensor in zip(TENSORS, task.tensors, strict=True):
                if not tensor.isfinite().all():
                    return f"{name} of task {number} is not finite; fix the data"
            placed = place(task, learner.device, learner.dtype)
            loss = AdaptedTasks(learner, placed, objective.batching, chunk=objective.chunk).last_outer_loss()
            if not loss.isfinite():
                return (
                    f"training diverged, on task {number} before others; lower inner_lr or outer_lr, or set "
                    "clip_norm"
                )
            if weights and not _is_finite(torch.autograd.grad(loss, weights, allow_unused=True)):
                return (
                    f"the gradient of task {number} is not finite, though its loss is; lower inner_lr, or "
                    "leave such steps out with on_nonfinite='skip'"
                )
    return None


def _is_finite(tensors: Sequence[Tensor | None]) -> bool:
    return all(tensor is None or bool(tensor.isfinite().all()) for tensor in tensors)


def _norms(gradients: Sequence[Tensor], n_replicas: int) -> Tensor:
    """Return the norm of the gradient of each replica, `(R,)`; of a single objective `(1,)`."""
    if n_replicas == 1:
        return torch.nn.utils.get_total_norm(gradients).unsqueeze(0)
    flat = [gradient.reshape(len(gradient), -1) for gradient in gradients]  # of a single number it is (R,)
    return torch.stack([gradient.norm(dim=1) for gradient in flat]).norm(dim=0)


def clip_gradients(
    weights: Sequence[Tensor], n_replicas: int, max_norm: float | None, on_nonfinite: OnNonfinite, *,
    return_norms: bool,
) -> list[float]:  # fmt: skip
    """Clip the gradient of each replica in place; return the norms before, if `return_norms`.

    Args:
        weights: parameters with their gradients.
        n_replicas: number of objectives side by side.
        max_norm: largest norm, or `None` for no limit.
        on_nonfinite: with `"clip"`, entries that are not finite are set to 0.
        return_norms: whether to wait for the norms.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], 1, 2.5, "raise", return_norms=True), weight.grad
    ([5.0], tensor([1.5000, 2.0000]))
    """
    if max_norm is None and not return_norms:
        return []
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = _norms(gradients, n_replicas)
    found = norms.tolist() if return_norms else []
    if on_nonfinite == "clip" and not all(map(math.isfinite, found)):
        for gradient in gradients:
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        norms = _norms(gradients, n_replicas)
    if max_norm is not None:
        factors = (max_norm / (norms + 1e-6)).clamp(max=1)  # as in PyTorch
        for gradient in gradients:  # of a single objective without an axis for replicas
            gradient.mul_(factors[0] if n_replicas == 1 else factors.view(-1, *[1] * (gradient.dim() - 1)))
    return found
