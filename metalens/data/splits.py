"""Which split a task, or anything else with a name, belongs to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from metalens.data.base import Split
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

SHARES = (0.7, 0.15, 0.15)  # of train, val and test, by default


def hashed_order(names: Iterable[str], seed: int | None = None) -> list[str]:
    """Return different names in the order of their SHA-256 sums, as good as random; a seed is another order.

    >>> hashed_order(["a", "b", "c"])
    ['c', 'b', 'a']
    """
    salt = "" if seed is None else f"{seed} "
    return sorted(names, key=lambda name: hashlib.sha256((salt + name).encode()).digest())


def divided(
    names: Iterable[str],
    shares: Sequence[float],
    *,
    strata: Mapping[str, str] | None = None,
    seed: int | None = None,
    instead: str = "",
) -> dict[str, Split]:
    """Return the split of every name, by its place in `hashed_order`.

    Args:
        names: of tasks, or of anything else.
        shares: of train, val and test.
        strata: a property of each name; each stratum is then divided by the shares, as far as possible.
        seed: of the order.
        instead: for the error, alternatives to shares, as in "a column or ".

    Raises:
        MetaLensError: the shares are not three that add up to 1.

    >>> divided("abcdef", (0.5, 0.0, 0.5), strata=dict(zip("abcdef", "xxyyzz")))
    {'b': 'train', 'a': 'test', 'd': 'train', 'c': 'test', 'f': 'train', 'e': 'test'}
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise MetaLensError(f"splits must be {instead}three shares that add up to 1, got {list(shares)}.")
    order = hashed_order(names, seed)
    _, val, test = shares
    held_out: dict[Split, list[str]]
    if strata is None:
        n_val, n_test = (round(share * len(order)) for share in (val, test))
        held_out = {"val": order[:n_val], "test": order[n_val : n_val + n_test]}
    else:
        order.sort(key=strata.__getitem__)  # keeps the order within a stratum
        to_test = set(_every(order, test))
        others = [name for name in order if name not in to_test]
        held_out = {"test": list(to_test), "val": _every(others, val / (1 - test) if test < 1 else 0.0)}
    split_of: dict[str, Split] = dict.fromkeys(order, "train")
    for split, part in held_out.items():
        split_of |= dict.fromkeys(part, split)
    return split_of


def _every(names: list[str], share: float) -> list[str]:
    """Return a share of names, equally spaced; the small number makes up for rounding."""
    steps = [math.floor(place * share + 1e-9) for place in range(len(names) + 1)]
    return [name for name, before, after in zip(names, steps, steps[1:], strict=False) if after > before]


def splits_of_column(column: pd.Series, rows_of: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return the split of every task, the same in all of its rows."""
    found = _values_of_tasks(column, rows_of)
    for name, values in found.items():
        if len(values) > 1 or values[0] not in get_args(Split):
            raise MetaLensError(
                f"All rows of a task must be in one split, train, val or test, but those of {name} are in "
                f"{', '.join(values)}; correct column {column.name}."
            )
    return {name: values[0] for name, values in found.items()}


def property_of_tasks(column: pd.Series, rows_of: Mapping[str, np.ndarray], use: str) -> dict[str, str]:
    """Return the value of every task, the same in all of its rows."""
    found = _values_of_tasks(column, rows_of)
    for name, values in found.items():
        if len(values) > 1:
            raise MetaLensError(
                f"Column {column.name} must say the same in all rows of a task, to be used as {use}, but "
                f"those of {name} say {', '.join(values)}; correct it or choose another column."
            )
    return {name: values[0] for name, values in found.items()}


def _values_of_tasks(column: pd.Series, rows_of: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    import pandas as pd  # takes as long to import as all of MetaLens

    codes, values = pd.factorize(column, use_na_sentinel=False)
    found = {name: np.unique(codes[rows]) for name, rows in rows_of.items()}
    return {name: sorted(str(values[code]) for code in of_task) for name, of_task in found.items()}
