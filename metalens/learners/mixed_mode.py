"""Gradients of an inner loop that leave no graph, differentiated in mixed mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp

from metalens.batching import is_transformed
from metalens.recomputing import Moment, PureFunction

State = dict[str, Tensor]


class MixedModeGradient:
    """The gradient g of a loss by a state, which keeps its inputs alone for the outer gradient.

    The outer gradient needs products of a vector v with the derivatives of g by the state s and by everything
    else, p, that the loss reads. As second derivatives are symmetric, they are one derivative in the direction
    v of a gradient, `d/dt grad_(s, p) L(s + t v, p)` at t = 0: forward mode over reverse mode. It is exact, and
    its memory is that of one such derivative, however many inner steps there are. The other order, reverse mode
    over forward mode, keeps the tangents of the loss for the backward pass, in about a third more memory.

    The gradient can itself be differentiated, in the memory of `torch.func.grad`.

    Args:
        loss: `(state, z, y) -> scalar`, which reads the module.
        module: see `metalens.recomputing.PureFunction`.

    >>> weight, layer = torch.tensor([2.0], requires_grad=True), torch.nn.Linear(1, 1)
    >>> gradient = MixedModeGradient(lambda state, z, y: (state["w"] ** 3 * z).sum(), layer)
    >>> gradients = gradient({"w": weight}, torch.ones(1), torch.ones(1))
    >>> gradients["w"].item(), torch.autograd.grad(gradients["w"], weight)
    (12.0, (tensor([12.]),))

    Source: I. Kemaev and others, "Scalable Meta-Learning via Mixed-Mode Differentiation", 2025,
    arXiv 2505.00793.
    """

    def __init__(self, loss: Callable[[State, Tensor, Tensor], Tensor], module: torch.nn.Module) -> None:
        self._pure = PureFunction(loss, module)

    def __call__(self, state: State, z: Tensor, y: Tensor) -> State:
        """Return the gradient at a state, on encoded inputs z and targets y."""
        names = list(state)

        def loss(values: list[Tensor], others: list[Tensor]) -> Tensor:
            z, y, *tensors = others
            return self._pure(tensors, dict(zip(names, values, strict=True)), z, y)

        tensors = [*state.values(), z, y, *self._pure.tensors]
        # In a transform a tensor does not tell whether an outer one differentiates by it.
        needed = [t.is_floating_point() and (t.requires_grad or is_transformed()) for t in tensors]
        gradients = _Gradient.apply(loss, len(names), needed, Moment(z.device), *tensors)
        return dict(zip(names, gradients, strict=True))


class _Gradient(torch.autograd.Function):
    """See `MixedModeGradient`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        loss: Callable[..., Tensor], n: int, needed: list[bool], moment: Moment, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(grad(loss)(list(tensors[:n]), list(tensors[n:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.loss, ctx.n, ctx.needed, ctx.moment, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        n, needed, others = ctx.n, ctx.needed, list(ctx.saved_tensors[ctx.n :])
        by_others = [number for number, need in enumerate(needed[n:]) if need]

        def loss(state: list[Tensor], learned: list[Tensor]) -> Tensor:
            every = list(others)
            for number, tensor in zip(by_others, learned, strict=True):
                every[number] = tensor
            return ctx.loss(state, every)

        def gradient(state: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return grad(loss, argnums=(0, 1))(state, [others[number] for number in by_others])

        with ctx.moment.again():
            _, (by_state, by_learned) = jvp(gradient, (list(ctx.saved_tensors[:n]),), (list(directions),))
        products = dict(zip(by_others, by_learned, strict=True))
        return (*[None] * 4, *by_state, *(products.get(number) for number in range(len(others))))
