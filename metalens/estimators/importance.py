"""Permutation importance: how much worse predictions for a task are without an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.estimators.tables import TableReader


def input_groups(reader: Any) -> dict[str, list[int]]:
    """Return the places of the inputs that each column became.

    Raises:
        MetaLensError: inputs are images, which have no columns.
    """
    if not isinstance(reader, TableReader):
        raise MetaLensError("Images have no columns whose importance could be measured; give a table.")
    sizes = {column.name: len(column.input_names) for column in reader.encoding.columns}
    if reader.encoding.smiles is not None:
        sizes[reader.encoding.smiles] = reader.encoding.n_bits
    ends = np.cumsum(list(sizes.values()))
    return {name: list(range(end - size, end)) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def permutation_effects(
    predict: Callable[[Tensor], Tensor],
    gain: Callable[[Tensor], float],
    x: Tensor,
    groups: Mapping[str, list[int]],
    n_repeats: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return by how much the score of a task falls if the values of a column are permuted among its queries.

    Args:
        predict: returns the predictions of inputs, each for itself.
        gain: returns the score of the predictions of all queries, of which higher is better.
        x: inputs of the queries, `(q, d)`.
        groups: the places of the inputs of each column.
        n_repeats: number of permutations.
        rng: draws them, the same for all columns.

    Returns:
        For each column the effects of all permutations, `(n_repeats,)`: nan if its values are all equal, and
        there is nothing to permute.

    >>> x = torch.arange(8.0).reshape(4, 2)
    >>> error = lambda p: -float((p - x[:, 0]).abs().mean())
    >>> effects = permutation_effects(lambda z: z[:, 0], error, x, {"a": [0], "b": [1]}, 3,
    ...                               np.random.default_rng(0))
    >>> bool((effects["a"] > 0).all()), effects["b"].tolist()
    (True, [0.0, 0.0, 0.0])
    """
    orders = np.stack([rng.permutation(len(x)) for _ in range(n_repeats)])
    before, found = gain(predict(x)), {}
    for name, places in groups.items():
        if (x[:, places] == x[:1, places]).all():
            found[name] = np.full(n_repeats, np.nan)
            continue
        permuted = x.repeat(n_repeats, 1, 1)
        permuted[:, :, places] = x[:, places][torch.from_numpy(orders)]
        parts = predict(permuted.flatten(0, 1)).split(len(x))
        found[name] = np.array([before - gain(part) for part in parts])
    return found
