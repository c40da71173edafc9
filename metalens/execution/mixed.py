"""Compare the meta-gradient in mixed mode with that in reverse mode before it is used."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError
from metalens.objective import Objective, terms_and_gradient, trained_parameters
from metalens.tasks import Task, n_tasks


def check_mixed(objective: Objective, tasks: Task) -> None:
    """Raise `MetaLensError` if mixed mode is not possible or gives another gradient.

    One inner step on as few tasks as possible is differentiated in both modes. Some operations have no
    derivative in forward mode, and those that are not PyTorch's may have a wrong one.

    Args:
        objective: what is trained, on its device; left as it was.
        tasks: a batch as in training.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> check_mixed(Objective(MAML(mlp())), Sinusoid().batch(range(4)))
    """
    learner: Any = objective.learner
    before = learner.differentiation, learner.inner_steps, objective.chunk
    few = min(n_tasks(tasks), objective.min_meta_batch_size)
    tasks = pytree.tree_map(lambda tensor: tensor[:few], tasks)
    try:
        learner.inner_steps, objective.chunk = 1, None
        learner.differentiation = "reverse"
        right = _gradient(objective, tasks)
        learner.differentiation = "mixed"
        mixed = _gradient(objective, tasks)
    finally:
        learner.differentiation, learner.inner_steps, objective.chunk = before
    tolerance = torch.finfo(right.dtype).eps ** 0.25  # mistakes differ by far more
    if right.isfinite().all() and not (mixed - right).norm() <= tolerance * right.norm():
        raise MetaLensError(
            "The gradient in mixed mode differs from that in reverse mode, so an operation has a wrong "
            "derivative in one of them; use differentiation='reverse'."
        )


def _gradient(objective: Objective, tasks: Task) -> Tensor:
    torch.manual_seed(0)
    with torch.autocast(objective.learner.device.type, enabled=False):
        _, gradients = terms_and_gradient(objective, tasks, trained_parameters(objective))
    return torch.cat([gradient.flatten() for gradient in gradients])
