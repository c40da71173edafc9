"""The cause of losses and gradients that are not finite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.adapted_tasks import AdaptedTasks
from metalens.objective import Objective, trained_parameters
from metalens.tasks import TENSORS, Task, place
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
