"""Map a function of one task over a batch of tasks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError

Batching = Literal["auto", "vmap", "loop"]
Plan = Literal["vmap", "loop"]
Chunk = int | Literal["auto"] | None


def task_map(function: Callable[..., Any], *trees: Any, plan: Plan) -> Any:
    """Apply a function to every task of a batch and stack its results.

    `task_map(f, a, b)[t] = f(a[t], b[t])`, whatever the plan; only speed and memory differ.

    Args:
        function: maps the trees of one task to a tree of tensors.
        *trees: trees of tensors with a leading axis of length T.
        plan: `"vmap"` runs all tasks in one vectorized call, `"loop"` one by one: any operation, and faster
            on CPUs for convolutions whose kernels differ between tasks.

    Returns:
        The function's results with a leading axis of length T.

    >>> x = torch.arange(3.0)
    >>> [task_map(torch.square, x, plan=plan).tolist() for plan in ("vmap", "loop")]
    [[0.0, 1.0, 4.0], [0.0, 1.0, 4.0]]
    """
    if plan == "vmap":
        return torch.vmap(function, randomness="different")(*trees)
    leaves, spec = pytree.tree_flatten(trees)
    # `unbind` has one gradient; each `leaf[i]` would have one as large as the whole leaf.
    tasks = zip(*(leaf.unbind() for leaf in leaves), strict=True)
    results = [function(*pytree.tree_unflatten(task, spec)) for task in tasks]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def is_vectorized() -> bool:
    """Return whether `torch.vmap` is running.

    >>> task_map(lambda x: x.new_tensor(is_vectorized()), torch.zeros(1), plan="vmap")
    tensor([1.])
    >>> is_vectorized()
    False
    """
    return any(level.key() == TransformType.Vmap for level in get_interpreter_stack() or ())


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` is running: `vmap`, or `grad` of an inner loop.

    >>> torch.func.grad(lambda x: x * is_transformed())(torch.zeros(()))
    tensor(1.)
    """
    return bool(get_interpreter_stack())


def chunked_task_map(
    function: Callable[..., Any], *trees: Any, plan: Plan, chunk: int, parameters: Sequence[Tensor]
) -> Any:
    """Like `task_map`, `chunk` tasks at a time, in memory that does not grow with T.

    Intermediate results are not kept for the gradient: `backward` recomputes each chunk. `parameters` are all
    tensors, beside the trees, through which the function is differentiated.

    >>> w = torch.tensor(3.0, requires_grad=True)
    >>> y = chunked_task_map(lambda x: w * x, torch.arange(5.0), plan="vmap", chunk=2, parameters=[w])
    >>> torch.autograd.grad(y.sum(), w)
    (tensor(10.),)
    """

    def of_chunk(*parts: Any) -> Any:
        return task_map(function, *parts, plan=plan)

    leaves, structure = pytree.tree_flatten(trees)
    results = []
    for parts in zip(*(leaf.split(chunk) for leaf in leaves), strict=True):
        if torch.is_grad_enabled():
            shape: list[pytree.TreeSpec] = []
            values = _Recomputed.apply(of_chunk, structure, shape, len(parts), *parts, *parameters)
            results.append(pytree.tree_unflatten(list(values), shape[0]))
        else:
            results.append(of_chunk(*pytree.tree_unflatten(list(parts), structure)))
    return pytree.tree_map(lambda *pieces: torch.cat(pieces), *results)


def looped_mean(
    function: Callable[..., Tensor], *trees: Any, weights: Tensor | None = None, parameters: Sequence[Tensor]
) -> Tensor:
    """Return the mean of a scalar function over the tasks of a batch, in the memory of one task.

    The gradient of every task is taken in the forward pass, before the next task, and only scaled in the
    backward pass: no task is computed twice.

    Args:
        function: maps the trees of one task to a scalar.
        *trees: trees of tensors with a leading axis of length T, which are not differentiated.
        weights: of the tasks, `(T,)`, constants that add up to 1; equal by default.
        parameters: all tensors through which the function is differentiated, once.

    >>> w = torch.tensor(3.0, requires_grad=True)
    >>> y = looped_mean(lambda x: w * x, torch.arange(5.0), parameters=[w])
    >>> y.item(), torch.autograd.grad(y, w)
    (6.0, (tensor(2.),))
    """
    if weights is None:
        n = len(pytree.tree_leaves(trees)[0])
        weights = torch.full((n,), 1 / n, device=parameters[0].device, dtype=parameters[0].dtype)
    return _TaskByTask.apply(function, trees, weights, *parameters)


class _TaskByTask(torch.autograd.Function):
    """See `looped_mean`."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], trees: Any, weights: Tensor, *parameters: Tensor
    ) -> Tensor:
        needed = [parameter for parameter in parameters if parameter.requires_grad]
        totals = [torch.zeros_like(parameter) for parameter in needed]

        def value(weight: Tensor, *task: Any) -> Tensor:
            with torch.enable_grad():
                loss = weight * function(*task)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, needed, materialize_grads=True)
                for sum_so_far, gradient in zip(totals, gradients, strict=True):
                    sum_so_far.add_(gradient)
            return loss.detach()

        total = task_map(value, weights, *trees, plan="loop").sum()
        ctx.save_for_backward(*totals)
        ctx.needed = [parameter.requires_grad for parameter in parameters]
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] # by the decorator
        ctx: Any, slope: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return (None, None, None, *(next(gradients) * slope if needed else None for needed in ctx.needed))


class _Recomputed(torch.autograd.Function):
    """A function that is recomputed for its gradient; PyTorch's checkpointing refuses `torch.func.grad`."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Any], structure: pytree.TreeSpec, shape: list[pytree.TreeSpec],
        n: int, *tensors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.function, ctx.structure, ctx.n = function, structure, n
        ctx.random_state = torch.get_rng_state()
        device = tensors[0].device.type
        precision, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.autocast = torch.autocast(device, precision, enabled)
        ctx.save_for_backward(*tensors)
        values, found = pytree.tree_flatten(function(*pytree.tree_unflatten(list(tensors[:n]), structure)))
        shape.append(found)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        tensors, parameters = ctx.saved_tensors[: ctx.n], ctx.saved_tensors[ctx.n :]
        with torch.enable_grad(), torch.random.fork_rng(), ctx.autocast:
            torch.set_rng_state(ctx.random_state)
            inputs = [
                tensor.detach().requires_grad_(needed)
                for tensor, needed in zip(tensors, ctx.needs_input_grad[4:], strict=False)
            ]
            values = pytree.tree_leaves(ctx.function(*pytree.tree_unflatten(list(inputs), ctx.structure)))
        pairs = [(value, slope) for value, slope in zip(values, slopes, strict=True) if value.requires_grad]
        sources = (*inputs, *parameters)
        if not pairs:
            return (*[None] * 4, *[None] * len(sources))
        needed, (outputs, factors) = [t for t in sources if t.requires_grad], zip(*pairs, strict=True)
        gradients = iter(torch.autograd.grad(outputs, needed, factors, allow_unused=True))
        return (*[None] * 4, *(next(gradients) if tensor.requires_grad else None for tensor in sources))


def check_batching(batching: Batching) -> None:
    """Raise `MetaLensError` if a batching is unknown."""
    if batching not in get_args(Batching):
        raise MetaLensError(f"batching must be 'auto', 'vmap' or 'loop', got {batching!r}.")


def check_chunk(chunk: Chunk) -> None:
    """Raise `MetaLensError` if a chunk is no number of tasks, `"auto"` or `None`."""
    if chunk not in (None, "auto") and not (isinstance(chunk, int) and chunk >= 1):
        raise MetaLensError(f"chunk must be at least 1 task, 'auto', or None for all at once, got {chunk!r}.")
