"""Losses and gradients of single tasks, for samplers that evaluate the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import grad

from metalens.adapted_tasks import AdaptedTasks
from metalens.batching import task_map
from metalens.learners import GradientLearner, Learner, State
from metalens.networks.functional import functional_call

# Of one task: learner, support inputs and targets, query inputs and targets.
TaskLoss = Callable[[Learner, Tensor, Tensor, Tensor, Tensor], Tensor]


def example_losses(
    learner: Learner, support: Tensor, y_support: Tensor, query: Tensor, y_query: Tensor
) -> Tensor:
    """Return the loss of the adapted model on every query example, `(q,)`."""
    state = learner.adapt_encoded(learner.encode(support), y_support)
    predictions = learner.predict_encoded(state, learner.encode(query))
    return task_map(learner.loss, predictions.unsqueeze(1), y_query.unsqueeze(1), plan="vmap")


def support_loss(
    learner: Learner, support: Tensor, y_support: Tensor, query: Tensor, y_query: Tensor
) -> Tensor:
    """Return the loss on the support set before adaptation; see `start`."""
    z = learner.encode(support)
    return learner.loss(learner.predict_encoded(start(learner, z, y_support), z), y_support)


def query_loss(
    learner: Learner, support: Tensor, y_support: Tensor, query: Tensor, y_query: Tensor
) -> Tensor:
    """Return the loss on the query set before adaptation; see `start`."""
    state = start(learner, learner.encode(support), y_support)
    return learner.loss(learner.predict_encoded(state, learner.encode(query)), y_query)


def start(learner: Learner, z: Tensor, y: Tensor) -> State:
    """Return the state before the first step, or the adapted state of a learner without gradient steps."""
    return (
        learner.initial_state(z, y) if isinstance(learner, GradientLearner) else learner.adapt_encoded(z, y)
    )


def weights_of(learner: Learner) -> Tensor:
    """Return all trained parameters of a learner as one vector theta, `(P,)`."""
    return torch.cat([parameter.detach().flatten() for parameter in _trained(learner).values()])


def task_losses(adapted: AdaptedTasks, loss: TaskLoss, theta: Tensor) -> Tensor:
    """Return the loss of every task at parameters theta, `(T,)`."""
    called, parameters = _Called(adapted.learner, loss), _named(adapted.learner, theta)
    return _of_tasks(adapted, lambda *task: functional_call(called, parameters, task))


def task_gradients(
    adapted: AdaptedTasks, loss: TaskLoss, theta: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return the gradient of every task's loss, `(T, P)`.

    Args:
        adapted: T tasks.
        loss: of one task.
        theta: the parameters, `(P,)`; by default the learner's.
        weights: of the parts of a task's loss, `(T, n)`, if that is `(n,)`.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> adapted = AdaptedTasks(MAML(mlp(hidden=[8])), Sinusoid().batch(range(4)))
    >>> task_gradients(adapted, support_loss).shape
    torch.Size([4, 25])
    """
    called = _Called(adapted.learner, loss)
    parameters = _named(adapted.learner, weights_of(adapted.learner) if theta is None else theta)

    def of_task(*tensors: Tensor) -> Tensor:
        task, shares = tensors[:4], tensors[4:]

        def value(parameters: dict[str, Tensor]) -> Tensor:
            losses = functional_call(called, parameters, task)
            return (shares[0] * losses).sum() if shares else losses

        return torch.cat([slope.flatten() for slope in grad(value)(parameters).values()])

    return _of_tasks(adapted, of_task, *([] if weights is None else [weights]))


def example_slopes(adapted: AdaptedTasks, direction: Tensor) -> Tensor:
    """Return the slope of the loss on every query example along a direction `(P,)`, `(T, q)`."""
    called, learner = _Called(adapted.learner, example_losses), adapted.learner
    parameters, along = _named(learner, weights_of(learner)), _named(learner, direction)

    def of_task(*task: Tensor) -> Tensor:
        # The slope of a weighted sum is linear in the weights, and the slopes asked for are its gradient by
        # them. PyTorch's forward mode would take one pass, but fails in inner loops on squared errors.
        def slope(weights: Tensor) -> Tensor:
            def value(parameters: dict[str, Tensor]) -> Tensor:
                return (weights * functional_call(called, parameters, task)).sum()

            gradient = grad(value)(parameters)
            return torch.stack([(gradient[name] * along[name]).sum() for name in gradient]).sum()

        return grad(slope)(direction.new_ones(len(task[3])))

    return _of_tasks(adapted, of_task)


class _Called(nn.Module):
    """A function of a learner as a module, for `functional_call` with other parameters."""

    def __init__(self, learner: Learner, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.learner, self.function = learner, function

    def forward(self, *task: Tensor) -> Tensor:
        return self.function(self.learner, *task)


def _of_tasks(adapted: AdaptedTasks, function: Callable[..., Tensor], *more: Tensor) -> Tensor:
    return adapted.map(function, *adapted.tasks.support, *adapted.tasks.query, *more)


def _trained(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in learner.named_parameters() if tensor.requires_grad}


def _named(learner: Learner, theta: Tensor) -> dict[str, Tensor]:
    trained = _trained(learner)
    parts = theta.split([tensor.numel() for tensor in trained.values()])
    return {
        f"learner.{name}": part.view_as(tensor)
        for (name, tensor), part in zip(trained.items(), parts, strict=True)
    }
