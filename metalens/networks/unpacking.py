"""A module that takes several inputs, called on packed ones."""

import inspect

from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.fields import Fields


class Unpacking(nn.Module):
    """Call a module on the fields of packed inputs, by the names of its arguments.

    Args:
        module: with the names of the fields as arguments.
        fields: the layout of packed inputs.

    Raises:
        MetaLensError: the module takes other arguments.

    >>> import torch
    >>> fields = Fields({"input1": (2,), "input2": (3,)})
    >>> Unpacking(nn.Bilinear(2, 3, 4), fields)(torch.zeros(5, 5)).shape
    torch.Size([5, 4])
    """

    def __init__(self, module: nn.Module, fields: Fields) -> None:
        super().__init__()
        self.module, self.fields = module, fields
        try:
            inspect.signature(module.forward).bind(**dict.fromkeys(fields.names))
        except TypeError as error:
            raise MetaLensError(
                f"{type(module).__name__} does not take the fields {', '.join(fields.names)} ({error}); give "
                "them the names of the arguments of its forward."
            ) from None

    def forward(self, x: Tensor) -> Tensor:
        return self.module(**self.fields.unpack(x))


def class_name(module: nn.Module) -> str:
    """Return the name of the class of a module, of one that takes several inputs its own.

    >>> class_name(Unpacking(nn.Bilinear(2, 3, 4), Fields({"input1": (2,), "input2": (3,)})))
    'Bilinear'
    """
    return type(module.module if isinstance(module, Unpacking) else module).__name__
