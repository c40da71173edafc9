"""Map a function over a batch of tasks in less memory, by computing parts of it again or by themselves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens.batching import Plan, task_map
from metalens.networks.functional import functional_call


def chunked_task_map(
    function: Callable[..., Any], *trees: Any, plan: Plan, chunk: int, module: nn.Module
) -> Any:
    """Like `task_map`, `chunk` tasks at a time, in memory that does not grow with T.

    Intermediate results are not kept for the gradient: `backward` recomputes each chunk. Beside the trees,
    the function is differentiated through the parameters of `module`, and through nothing else.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> y = chunked_task_map(layer, torch.arange(5.0).view(5, 1), plan="vmap", chunk=2, module=layer)
    >>> torch.autograd.grad(y.sum(), layer.weight)
    (tensor([[10.]]),)
    """

    def of_chunk(*parts: Any) -> Any:
        return task_map(function, *parts, plan=plan)

    leaves, structure = pytree.tree_flatten(trees)
    results, pure = [], PureFunction(of_chunk, module)
    for parts in zip(*(leaf.split(chunk) for leaf in leaves), strict=True):
        if torch.is_grad_enabled():
            shape: list[pytree.TreeSpec] = []
            values = _Recomputed.apply(pure, structure, shape, *parts, *pure.tensors)
            results.append(pytree.tree_unflatten(list(values), shape[0]))
        else:
            results.append(of_chunk(*pytree.tree_unflatten(list(parts), structure)))
    return pytree.tree_map(lambda *pieces: torch.cat(pieces), *results)


def looped_mean(
    function: Callable[..., Tensor], *trees: Any, weights: Tensor | None = None, module: nn.Module
) -> Tensor:
    """Return the mean of a scalar function over the tasks of a batch, in the memory of one task.

    The gradient of every task is taken in the forward pass, before the next task, and only scaled in the
    backward pass: no task is computed twice. For a gradient that is itself differentiated
    (`create_graph=True`), all tasks are computed again and kept.

    Args:
        function: maps the trees of one task to a scalar.
        *trees: trees of tensors with a leading axis of length T, which are not differentiated.
        weights: of the tasks, `(T,)`, constants that add up to 1; equal by default.
        module: its parameters are all tensors through which the function is differentiated.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> y = looped_mean(lambda x: layer(x).sum(), torch.arange(5.0).view(5, 1), module=layer)
    >>> torch.autograd.grad(y, layer.weight)
    (tensor([[2.]]),)
    """
    pure = PureFunction(function, module)
    if weights is None:
        n, like = len(pytree.tree_leaves(trees)[0]), pure.tensors[0]
        weights = torch.full((n,), 1 / n, device=like.device, dtype=like.dtype)
    return _TaskByTask.apply(pure, trees, weights, *pure.tensors)


class PureFunction:
    """A function that reads a module, as a function of the module's tensors at this time.

    They may be others later: where a module is called with other tensors in their place, it has its own again
    by the time of the backward pass.

    Args:
        function: reads the module, and takes trees.
        module: its parameters and buffers are all tensors that the function reads, beside its arguments. A
            layer that reads modules which are not its own names them in a tuple `reads`.

    Attributes:
        tensors: parameters, then buffers.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> PureFunction(layer, layer)([torch.tensor([[2.0]])], torch.tensor([3.0]))
    tensor([6.])
    """

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        self._reading = _Reading(function, module)
        named = {**dict(self._reading.named_parameters()), **dict(self._reading.named_buffers())}
        self._names, self.tensors = list(named), list(named.values())

    def __call__(self, tensors: Sequence[Tensor], *trees: Any) -> Any:
        """Return the function's result where the module has other tensors."""
        return functional_call(self._reading, dict(zip(self._names, tensors, strict=True)), trees)


class _Reading(nn.Module):
    """A function as a module that has all tensors of the one it reads."""

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        super().__init__()
        self.function, self.read = function, module
        foreign = [each for layer in module.modules() for each in getattr(layer, "reads", ())]
        self.foreign = nn.ModuleList(dict.fromkeys(foreign))

    def forward(self, *trees: Any) -> Any:
        return self.function(*trees)


class Moment:
    """The random state and the precision at a time, to compute the same again."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._state = device, torch.get_rng_state()
        self._device_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._autocast: AbstractContextManager[object] = nullcontext()
        if torch.amp.is_autocast_available(device.type):  # not on the meta device
            enabled, precision = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
            self._autocast = torch.autocast(device.type, precision, enabled)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Restore both within the block."""
        with torch.random.fork_rng(), self._autocast:
            torch.set_rng_state(self._state)
            if self._device_state is not None:
                torch.cuda.set_rng_state(self._device_state, self._device)
            yield


def _sources(tensors: list[Tensor], needed: list[bool]) -> list[Tensor]:
    """Return tensors to differentiate by: each by itself, whatever the others were computed from.

    They keep the graph of the given ones only where the gradient is itself differentiated.
    """
    if torch.is_grad_enabled():
        return [
            tensor.view_as(tensor) if need else tensor.detach()
            for tensor, need in zip(tensors, needed, strict=True)
        ]
    return [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needed, strict=True)]


class _TaskByTask(torch.autograd.Function):
    """See `looped_mean`."""

    @staticmethod
    def forward(ctx: Any, pure: PureFunction, trees: Any, weights: Tensor, *tensors: Tensor) -> Tensor:
        ctx.pure, ctx.trees, ctx.moment = pure, trees, Moment(tensors[0].device)
        ctx.needed = [tensor.requires_grad for tensor in tensors]
        sources = _sources(list(tensors), ctx.needed)
        by = [source for source in sources if source.requires_grad]
        totals = [torch.zeros_like(source) for source in by]

        def value(weight: Tensor, *task: Any) -> Tensor:
            with torch.enable_grad():
                loss = weight * pure(sources, *task)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, by, materialize_grads=True)
                for total, gradient in zip(totals, gradients, strict=True):
                    total.add_(gradient)
            return loss.detach()

        mean = task_map(value, weights, *trees, plan="loop").sum()
        ctx.save_for_backward(weights, *tensors)
        ctx.totals = totals
        return mean

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        if torch.is_grad_enabled():
            gradients = iter(_TaskByTask._with_graph(ctx, slope))
        else:
            gradients = (total * slope for total in ctx.totals)
        return (None, None, None, *(next(gradients) if needed else None for needed in ctx.needed))

    @staticmethod
    def _with_graph(ctx: Any, slope: Tensor) -> tuple[Tensor, ...]:
        weights, *tensors = ctx.saved_tensors
        sources = _sources(tensors, ctx.needed)
        with torch.enable_grad(), ctx.moment.again():
            losses = task_map(lambda *task: ctx.pure(sources, *task), *ctx.trees, plan="loop")
            by = [source for source, needed in zip(sources, ctx.needed, strict=True) if needed]
            mean = (weights * losses).sum()
            return torch.autograd.grad(mean, by, slope, create_graph=True, materialize_grads=True)


class _Recomputed(torch.autograd.Function):
    """A function that is recomputed for its gradient; PyTorch's checkpointing refuses `torch.func.grad`."""

    @staticmethod
    def forward(
        ctx: Any,
        pure: PureFunction,
        structure: pytree.TreeSpec,
        shape: list[pytree.TreeSpec],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.pure, ctx.structure, ctx.moment = pure, structure, Moment(tensors[0].device)
        ctx.save_for_backward(*tensors)
        values, found = pytree.tree_flatten(_Recomputed._call(ctx, list(tensors)))
        shape.append(found)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        needed, is_differentiated = list(ctx.needs_input_grad[3:]), torch.is_grad_enabled()
        sources = _sources(list(ctx.saved_tensors), needed)
        with torch.enable_grad(), ctx.moment.again():
            values = pytree.tree_leaves(_Recomputed._call(ctx, sources))
        pairs = [(value, slope) for value, slope in zip(values, slopes, strict=True) if value.requires_grad]
        if not pairs:
            return (*[None] * 3, *[None] * len(sources))
        by, (outputs, factors) = (
            [source for source, need in zip(sources, needed, strict=True) if need], zip(*pairs, strict=True)
        )  # fmt: skip
        how = {"create_graph": is_differentiated, "allow_unused": True}
        gradients = iter(torch.autograd.grad(outputs, by, factors, **how))
        return (*[None] * 3, *(next(gradients) if need else None for need in needed))

    @staticmethod
    def _call(ctx: Any, tensors: list[Tensor]) -> Any:
        n = ctx.structure.num_leaves
        return ctx.pure(tensors[n:], *pytree.tree_unflatten(tensors[:n], ctx.structure))
