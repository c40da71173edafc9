"""Gradients of an inner loop that leave no graph, differentiated in mixed mode."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.func import grad, jvp

from metalens.batching import is_transformed
from metalens.errors import MetaLensError
from metalens.networks.state import first_sentence
from metalens.recomputing import Moment, PureFunction

State = dict[str, Tensor]


class MixedModeGradient:
    """The gradient g of a loss by a state, which keeps its inputs alone for the outer gradient.

    The outer gradient needs products of a vector v with the derivatives of g by the state s and by all else,
    p, that the loss reads. Second derivatives are symmetric, so they are together the derivative of a
    gradient in the direction v, `d/dt grad_(s, p) L(s + t v, p)` at t = 0: forward over reverse mode. It is
    exact, and takes the memory of one such derivative, whatever the number of inner steps. The other order,
    reverse over forward mode, keeps all tangents for its backward pass, in about a third more memory.

    The gradient can be differentiated further, in the memory of reverse mode.

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
            y, z, *tensors = others
            return self._pure(tensors, dict(zip(names, values, strict=True)), z, y)

        tensors = [*state.values(), y, z, *self._pure.tensors]
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
        known = [tensor.detach() for tensor in tensors]
        with torch.enable_grad():  # there is a graph only of what is not known
            gradients = grad(loss)(known[:n], known[n:])
        if any(_unwrapped(gradient).requires_grad for gradient in gradients):
            raise MetaLensError(
                "In mixed mode, the inner loss may read learned tensors of the learner alone, but reads "
                "others; use differentiation='reverse', register them in a module of the learner, or name "
                "their module in the tuple `reads` of the layer that reads it."
            )
        return tuple(gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.loss, ctx.n, ctx.needed, ctx.moment, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        state, (y, *others) = list(ctx.saved_tensors[: ctx.n]), ctx.saved_tensors[ctx.n :]
        by = [number for number, needed in enumerate(ctx.needed[ctx.n :]) if needed]

        def gradient(state: list[Tensor], y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            every = [y, *others]

            def loss(state: list[Tensor], learned: list[Tensor]) -> Tensor:
                replaced = dict(zip(by, learned, strict=True))
                return ctx.loss(state, [replaced.get(number, tensor) for number, tensor in enumerate(every)])

            return grad(loss, argnums=(0, 1))(state, [every[number] for number in by])

        # Real targets move by 0: PyTorch fails at the mean squared error where they do not move (torch 2.13).
        moves = [torch.zeros_like(y)] if y.is_floating_point() else []
        moving = gradient if moves else lambda state: gradient(state, y)
        try:
            with ctx.moment.again():
                found = jvp(moving, (state, y)[: 1 + len(moves)], (list(directions), *moves))[1]
        except (NotImplementedError, RuntimeError) as error:
            if not any(words in str(error) for words in ("forward AD", "jvp", "ZeroTensor")):
                raise  # it is about something else, such as memory
            raise MetaLensError(
                f"Mixed mode is not possible, as an operation of the inner loss has no derivative in forward "
                f"mode ({first_sentence(error)}); use differentiation='reverse'."
            ) from error
        by_state, by_learned = ([_writable(tensor) for tensor in tensors] for tensors in found)
        products = dict(zip(by, by_learned, strict=True))
        return (*[None] * 4, *by_state, *(products.get(number) for number in range(1 + len(others))))


def _unwrapped(tensor: Tensor) -> Tensor:
    """Return the tensor inside those of the running transforms."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def _writable(tensor: Tensor) -> Tensor:
    """Return a tensor that others can be added to, which a derivative that is zero by itself is not."""
    return tensor.clone() if _unwrapped(tensor)._is_zerotensor() else tensor
