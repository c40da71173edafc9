"""Call a module with other parameters than its own."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def functional_call(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """Return `module(*args, **kwargs)` with other parameters and buffers, and leave the module as it was.

    `torch.func.functional_call` does not, if the module holds a block in several places: it sets the block's
    tensors once for each place, and at the end puts back what it found at the last (torch 2.13).

    Args:
        module: any module.
        tensors: by the names that `named_parameters` and `named_buffers` give; tied ones by the first name.
        args: of the call.
        kwargs: of the call.

    >>> block = nn.Linear(2, 2)
    >>> module = nn.Sequential(block, block)
    >>> functional_call(module, {"0.weight": torch.zeros(2, 2), "0.bias": torch.ones(2)}, (torch.ones(1, 2),))
    tensor([[1., 1.]])
    >>> type(block.weight).__name__
    'Parameter'
    """
    places = {place: tensors[name] for place, name in _first_names(module).items() if name in tensors}
    return torch.func.functional_call(module, places, args, kwargs, tie_weights=False)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Return the first name of the tensor in every place of a module, with each submodule once."""
    first: dict[int, str] = {}
    names = {}
    for prefix, owner in module.named_modules():
        for name, tensor in chain(owner._parameters.items(), owner._buffers.items()):
            if tensor is not None:
                place = f"{prefix}.{name}" if prefix else name
                names[place] = first.setdefault(id(tensor), place)
    return names
