"""The inputs of examples in arrays: checked, scaled and, where there are several, packed."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalens.data.checks import check_finite, chunks
from metalens.data.support_query import equal_rows, pairs
from metalens.errors import MetaLensError
from metalens.fields import Fields, check_exact


class ArrayInputs:
    """The inputs of N examples: one array, or several that are packed into vectors.

    Args:
        arrays: by name, `(N, *shape)` numbers.
        packed: they are fields, of which whole numbers other than bytes are not scaled; otherwise there is
            one array of any type.

    Attributes:
        fields: of packed inputs, or `None`.

    Raises:
        MetaLensError: an array does not hold numbers, or one that is not finite; a whole number of a field is
            beyond 2^24.

    >>> inputs = ArrayInputs({"age": np.array([20.0, 40.0]), "site": np.array([3, 1])}, packed=True)
    >>> inputs.standardize(np.arange(2))
    >>> inputs.fields, inputs[np.arange(2)]
    (Fields(age=(), site=() integers), tensor([[-1.,  3.],
            [ 1.,  1.]]))
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, packed: bool) -> None:
        for name, array in arrays.items():
            if array.dtype.kind not in "iufb":
                raise MetaLensError(f"Array {name} must hold numbers, got {array.dtype}.")
            check_finite(array, name)
        integers = [name for name, a in arrays.items() if a.dtype.kind in "iub" and a.dtype != np.uint8]
        self.fields = None
        if packed:
            shapes = {name: array.shape[1:] for name, array in arrays.items()}
            self.fields = Fields(shapes, integers=integers)
            for name in integers:
                parts = (part for _, part in chunks(arrays[name], np.arange(len(arrays[name]))))
                check_exact(name, max(abs(int(edge)) for part in parts for edge in (part.min(), part.max())))
        self._arrays = [a[:, np.newaxis] if a.ndim == 1 else a for a in arrays.values()]
        self._kept = [packed and name in integers for name in arrays]
        self._scales: list[tuple[Any, Any]] = [(0.0, 1.0) for _ in arrays]

    @property
    def need_statistics(self) -> bool:
        """Whether some are standardized by examples."""
        return any(a.dtype != np.uint8 and not kept for a, kept in zip(self._arrays, self._kept, strict=True))

    def equal(self) -> np.ndarray:
        """Return a number for each example, `(N,)`; those with equal inputs have equal numbers."""
        return reduce(pairs, map(equal_rows, self._arrays))

    def standardize(self, rows: np.ndarray) -> None:
        """Scale bytes by 255, and other inputs by mean and deviation over some examples."""
        for place, (array, kept) in enumerate(zip(self._arrays, self._kept, strict=True)):
            if not kept:
                self._scales[place] = _scale(array, rows)

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """Return the inputs of examples `rows`, of any shape, with further axes of the inputs."""
        parts = [
            (array[rows].astype(np.float32) - shift) / scale
            for array, (shift, scale) in zip(self._arrays, self._scales, strict=True)
        ]
        if self.fields is None:
            return torch.from_numpy(parts[0])
        return torch.from_numpy(np.concatenate([part.reshape(*rows.shape, -1) for part in parts], axis=-1))


def _scale(x: np.ndarray, rows: np.ndarray) -> tuple[Any, Any]:
    """Return the shift and the scale of inputs."""
    if x.dtype == np.uint8:
        return np.float32(0), np.float32(255)
    axes = 0 if x.ndim == 2 else None
    n = len(rows) if x.ndim == 2 else len(rows) * x[0].size
    # Two passes: sums of squares alone would lose small deviations around a large mean.
    mean = sum(part.sum(axes, dtype=np.float64) for _, part in chunks(x, rows)) / n
    squares = sum(np.square(part - mean).sum(axes) for _, part in chunks(x, rows))
    deviation = np.sqrt(squares / n)
    return np.float32(mean), np.where(deviation > 0, deviation, 1.0).astype(np.float32)
