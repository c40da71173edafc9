"""Measure whether `torch.vmap` is right for a loss or a learner that is not of this library."""

import warnings

import torch
from torch import Tensor, nn

from metalens.batching import Batching, Plan, is_transformed, task_map
from metalens.errors import MetaLensError
from metalens.learners.base import Learner
from metalens.networks.modes import module_mode
from metalens.networks.state import first_sentence, seeded
from metalens.tasks import Examples, Task

_TOLERANCE = 1e-3  # of the norm, in single precision: mistakes differ by far more


def measure_vectorized(learner: Learner, tasks: Task, batching: Batching) -> None:
    """Make a learner loop over tasks, with a warning, where `torch.vmap` fails or gives other numbers.

    Two tasks are adapted to and scored by loop and by `torch.vmap`, in evaluation mode, with the
    meta-gradient where gradients are enabled. It is done once, and only for a loss or a learner from
    elsewhere that does not say `trusts_vmap`: some operations of PyTorch have no vectorized form or, without
    a word, a wrong second derivative.

    Args:
        learner: the learner, in place.
        tasks: a batch, on its device.
        batching: how tasks will be mapped; a loop needs no measuring.

    Raises:
        MetaLensError: the loss or the learner fails on one task by itself.
    """
    with_gradient = torch.is_grad_enabled() and any(p.requires_grad for p in learner.parameters())
    key = id(learner.loss), with_gradient
    known = learner.trusts_vmap or learner.vmap_refusal is not None or _is_ours(learner)
    if batching == "loop" or known or key in learner._measured or is_transformed():
        return
    learner._measured.add(key)
    few = Task.of_tensors([tensor[:2].clone() for tensor in tasks.tensors])
    try:
        right = _numbers(learner, few, "loop", with_gradient)
    except (RuntimeError, NotImplementedError) as error:
        raise MetaLensError(
            f"{_name(learner)} fails on a task: {first_sentence(error)}; replace the operation at fault."
        ) from error
    try:
        mapped = _numbers(learner, few, "vmap", with_gradient)
    except RuntimeError as error:
        learner._refusal = f"{_name(learner)} has no vectorized form ({first_sentence(error)})."
    else:
        near = (mapped - right).norm() <= _TOLERANCE * right.norm()
        if near or not right.isfinite().all() or _is_random(learner, few, right, with_gradient):
            return
        learner._refusal = f"torch.vmap gives other numbers for {_name(learner)}."
    warnings.warn(f"Tasks will be looped over: {learner._refusal}", stacklevel=3)


def _is_ours(learner: Learner) -> bool:
    """Return whether learner and loss are of this library, which its tests have measured."""
    loss = type(learner.loss) if isinstance(learner.loss, nn.Module) else learner.loss
    return all(getattr(of, "__module__", "").startswith("metalens.") for of in (type(learner), loss))


def _name(learner: Learner) -> str:
    loss = learner.loss
    return f"{type(learner).__name__} with the loss {getattr(loss, '__name__', type(loss).__name__)}"


def _numbers(learner: Learner, tasks: Task, plan: Plan, with_gradient: bool, seed: int = 0) -> Tensor:
    """Return the outer losses and, if asked for, the meta-gradient, one after the other."""

    def loss(x_support: Tensor, y_support: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        state = learner.adapt(Examples(x_support, y_support))
        z = learner.encode(x_query)
        return learner.outer_loss(state, learner.predict_encoded(state, z), z, y_query)

    with (
        module_mode(learner, training=False),
        seeded(seed),
        torch.autocast(learner.device.type, enabled=False),
    ):
        losses = task_map(loss, *tasks.tensors[:4], plan=plan)
    parts = [losses.detach()]
    if with_gradient and losses.requires_grad:
        weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        parts += torch.autograd.grad(losses.sum(), weights, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def _is_random(learner: Learner, tasks: Task, right: Tensor, with_gradient: bool) -> bool:
    """Return whether other random numbers give another result by loop, too."""
    return not torch.equal(_numbers(learner, tasks, "loop", with_gradient, seed=1), right)
