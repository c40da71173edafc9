"""Several inputs of an example, such as an image and numbers about it, in one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from metalens.errors import MetaLensError, check_type

MAX_INTEGER = 2**24  # up to which whole numbers are exact in single precision


@dataclass(frozen=True, init=False, repr=False)
class Fields:
    """The names and shapes of several inputs of an example, which one vector of real numbers holds.

    A network with `forward(image, age)` gets packed inputs `(n, width)` and takes them apart; everything
    between, from files to vectorized inner loops, moves a single tensor. Packing is exact: whole numbers, as
    an embedding takes them, are kept as such, up to 2^24.

    Args:
        shapes: of one example, by the name of the field, `()` for a single number.
        integers: names of the fields of whole numbers; others are real.

    Attributes:
        names: of the fields, in their order.
        width: numbers of an example.

    Raises:
        MetaLensError: there are no fields, a shape is not of whole numbers of at least 1, or `integers` names
            another field.

    >>> fields = Fields({"image": (3, 8, 8), "age": (), "site": ()}, integers=["site"])
    >>> fields, fields.width
    (Fields(image=(3, 8, 8), age=(), site=() integers), 194)
    >>> x = fields.pack(image=torch.rand(5, 3, 8, 8), age=torch.rand(5), site=torch.arange(5))
    >>> x.shape, fields.unpack(x)["site"]
    (torch.Size([5, 194]), tensor([0, 1, 2, 3, 4]))
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    integers: tuple[str, ...]

    def __init__(self, shapes: Mapping[str, Sequence[int]], *, integers: Iterable[str] = ()) -> None:
        check_type(shapes, Mapping, "shapes", 'give a dictionary, such as {"image": (3, 32, 32), "age": ()}')
        if not shapes:
            raise MetaLensError("Fields must be at least one, got none.")
        chosen = [integers] if isinstance(integers, str) else list(integers)
        if unknown := [name for name in chosen if name not in shapes]:
            known, found = (", ".join(map(str, names)) for names in (shapes, unknown))
            raise MetaLensError(f"integers must name some of {known}, got {found}.")
        layout = {
            "names": tuple(shapes),
            "shapes": tuple(_checked_shape(name, shape) for name, shape in shapes.items()),
            "integers": tuple(name for name in shapes if name in chosen),
        }
        for name, value in layout.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, /, **values: Tensor) -> Self:
        """Return the fields of some examples, each `(n, *shape)`: whole numbers and booleans are integers.

        >>> Fields.of(spectrum=torch.rand(2, 100), site=torch.tensor([0, 3]))
        Fields(spectrum=(100,), site=() integers)
        """
        for name, value in values.items():
            check_type(value, Tensor, name, "use torch.tensor or torch.from_numpy")
        integers = [name for name, value in values.items() if not value.is_floating_point()]
        return cls({name: tuple(value.shape[1:]) for name, value in values.items()}, integers=integers)

    def __repr__(self) -> str:
        kinds = [" integers" if name in self.integers else "" for name in self.names]
        parts = zip(self.names, self.shapes, kinds, strict=True)
        return f"Fields({', '.join(f'{name}={shape}{kind}' for name, shape, kind in parts)})"

    @property
    def width(self) -> int:
        return sum(map(prod, self.shapes))

    def pack(self, /, **values: Tensor) -> Tensor:
        """Return examples in one tensor, `(n, width)`, or for T tasks `(T, n, width)`.

        Args:
            **values: of every field, `(n, *shape)` or `(T, n, *shape)`.

        Returns:
            Numbers of single precision; double, where a field is.

        Raises:
            MetaLensError: a field is missing or unknown, or its shape or type is another; a whole number is
                beyond 2^24.
        """
        if values.keys() != set(self.names):
            raise MetaLensError(f"pack takes the fields {', '.join(self.names)}, got {', '.join(values)}.")
        for name, shape in zip(self.names, self.shapes, strict=True):
            self._check(name, shape, values[name])
        leads = {name: values[name].shape[: values[name].dim() - len(s)] for name, s in self._shape_items()}
        if len(set(leads.values())) > 1:
            found = ", ".join(f"{tuple(lead)} of {name}" for name, lead in leads.items())
            raise MetaLensError(f"All fields must have as many examples, got {found}.")
        is_double = any(value.dtype == torch.float64 for value in values.values())
        dtype = torch.float64 if is_double else torch.float32
        parts = [
            values[name].to(dtype).reshape(*leads[name], prod(shape)) for name, shape in self._shape_items()
        ]
        return torch.cat(parts, dim=-1)

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """Return the fields of packed inputs `(..., width)` by name, each `(..., *shape)`.

        Real ones have the type of x, integers are int64.

        Raises:
            MetaLensError: x is of another width, or of half precision, where integers are not exact.
        """
        self.check_packed(x)
        sizes = [prod(shape) for shape in self.shapes]
        found = {}
        for (name, shape), part in zip(self._shape_items(), x.split(sizes, dim=-1), strict=True):
            value = part.unflatten(-1, shape) if shape else part.squeeze(-1)
            found[name] = value.round().to(torch.int64) if name in self.integers else value
        return found

    def check_packed(self, x: Tensor) -> None:
        """Raise `MetaLensError` unless a tensor may be of packed inputs."""
        if not x.is_floating_point() or x.dim() < 2 or x.shape[-1] != self.width:
            raise MetaLensError(
                f"Inputs packed by {self} are real numbers (n, {self.width}), got {x.dtype} of "
                f"{tuple(x.shape)}; make them by its method pack."
            )
        if self.integers and x.dtype in (torch.float16, torch.bfloat16):
            raise MetaLensError(
                f"Whole numbers, as of {self.integers[0]}, are not exact in {x.dtype}; train in 32-true or "
                "mixed precision."
            )

    def _shape_items(self) -> zip[tuple[str, tuple[int, ...]]]:
        return zip(self.names, self.shapes, strict=True)

    def _check(self, name: str, shape: tuple[int, ...], value: Tensor) -> None:
        """Raise `MetaLensError` unless a tensor is of a field."""
        check_type(value, Tensor, name, "use torch.tensor or torch.from_numpy")
        n = value.dim() - len(shape)
        if n < 1 or value.shape[n:] != shape:
            raise MetaLensError(
                f"{name} must be examples of the shape {shape}, got {tuple(value.shape)}; reshape it."
            )
        if value.is_complex() or value.is_floating_point() == (name in self.integers):
            kind = "whole" if name in self.integers else "real"
            raise MetaLensError(f"{name} must be {kind} numbers, got {value.dtype}; convert it.")
        if name in self.integers:
            edges = value.aminmax() if value.numel() else ()
            check_exact(name, max((abs(int(edge)) for edge in edges), default=0))


def _checked_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a field as a tuple, or raise `MetaLensError`."""
    is_shape = isinstance(shape, Sequence) and all(isinstance(size, Integral) and size > 0 for size in shape)
    if not is_shape:
        raise MetaLensError(
            f"The shape of the field {name} must be whole numbers of at least 1, such as (3, 8, 8), or () of "
            f"a single number, got {shape!r}."
        )
    return tuple(map(int, shape))


def check_exact(name: str, largest: float) -> None:
    """Raise `MetaLensError` if whole numbers of a field are too large to be packed.

    >>> check_exact("site", 2**24 + 1)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: site has the whole number 16777217, and only those up to 16777216 are exact
    in single precision; number its values from 0.
    """
    if largest > MAX_INTEGER:
        raise MetaLensError(
            f"{name} has the whole number {largest}, and only those up to {MAX_INTEGER} are exact in single "
            "precision; number its values from 0."
        )
