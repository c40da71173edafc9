"""Find what a network changes outside of its output, which a function of one task must not do."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metalens.errors import MetaLensError

_REGISTERED = ("_parameters", "_buffers", "_modules")

# What a forward pass raises if the module does not fit its input.
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError)


def check_copyable(module: nn.Module) -> None:
    """Raise `MetaLensError` if a module holds tensors that were computed, and so cannot be copied."""
    for path, layer in module.named_modules():
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise MetaLensError(
                    f"{_place(path, name)} of {type(module).__name__} was computed from other tensors, as by "
                    f"torch.nn.utils.weight_norm or pruning, and cannot be copied; use "
                    "torch.nn.utils.parametrizations, compute it in forward, or detach it."
                )


@torch.no_grad()
def check_stateless(network: nn.Module, x: Tensor) -> bool:
    """Raise `MetaLensError` if a network keeps a state, and return whether it has another output in training.

    The network is called with x, other inputs, and x again, in evaluation and in training mode, with the same
    random numbers. Tensors that differ after the second call, or outputs between the first and the third,
    depend on what was computed before.

    Args:
        network: any network; a copy is called.
        x: two or more inputs, `(n, ...)`.
    """
    other = torch.cat([x[:1], x[:-1]])
    outputs = {}
    for mode, training in (("evaluation", False), ("training", True)):
        twin = copy.deepcopy(network).train(training)
        try:
            first = _seeded_call(twin, x)
            before = _tensors(twin)
            _seeded_call(twin, other)
            after = _tensors(twin)
            again = _seeded_call(twin, x)
        except FAILURES as error:
            raise MetaLensError(
                f"The network fails in {mode} mode: {first_sentence(error)}; both modes must work on tensors."
            ) from error
        changed = [place for place, tensor in after.items() if not _equal(before.get(place), tensor)]
        if changed:
            raise MetaLensError(
                f"{changed[0]} changes with every call in {mode} mode, so a task's model would depend on the "
                "tasks before it; keep it fixed, or compute it from the inputs at hand."
            )
        if not torch.allclose(first, again):
            raise MetaLensError(
                f"The network's output for the same inputs changes from call to call in {mode} mode, so it "
                "counts calls or has random numbers of its own; draw PyTorch's, and count nothing."
            )
        outputs[mode] = first
    return not torch.equal(outputs["evaluation"], outputs["training"])


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draw the same random numbers of PyTorch, NumPy and Python in every block of a seed; restore them after.

    >>> with seeded():
    ...     first = torch.rand(2)
    >>> with seeded():
    ...     print(bool((torch.rand(2) == first).all()))
    True
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an error, without its full stop.

    >>> first_sentence(RuntimeError("Not so. Do that."))
    'Not so'
    """
    return str(error).split(". ")[0].split("\n")[0].rstrip(".")


def _seeded_call(network: nn.Module, x: Tensor) -> Tensor:
    with seeded():
        return network(x)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors that the modules hold, registered or not, also in lists, by place."""
    found = {}
    for path, layer in network.named_modules():
        others = {name: value for name, value in vars(layer).items() if name not in _REGISTERED}
        for name, value in {**others, **layer._parameters, **layer._buffers}.items():
            for number, leaf in enumerate(pytree.tree_leaves(value)):
                if isinstance(leaf, Tensor):
                    found[_place(path, name if leaf is value else f"{name}[{number}]")] = leaf.clone()
    return found


def _place(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _equal(before: Tensor | None, after: Tensor) -> bool:
    if before is None or before.shape != after.shape:
        return False
    return torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
