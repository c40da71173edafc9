"""Rows that must stay together, and their division into support and query without a leak."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from metalens.data.checks import chunks

_BATCH_SIZE, _N_BATCHES = 64, 32  # of random divisions to try


def rows_by_task(codes: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the rows of every task; code i is that of name i.

    >>> rows_by_task(np.array([1, 0, 1]), ["a", "b"])
    {'a': array([1]), 'b': array([0, 2])}
    """
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    return dict(zip(names, np.split(np.argsort(codes, kind="stable"), ends[:-1]), strict=True))


def equal_rows(array: np.ndarray) -> np.ndarray:
    """Return a number for each row of an array, `(rows,)`; equal rows have equal numbers."""
    seen: dict[bytes, int] = {}
    parts = (part for _, part in chunks(array, np.arange(len(array))))
    digests = (blake2b(row.tobytes(), digest_size=16).digest() for part in parts for row in part)
    return np.fromiter((seen.setdefault(digest, len(seen)) for digest in digests), np.int64, len(array))


def pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return numbers, `(rows,)`, that are equal if both codes are."""
    return np.unique(first.astype(np.int64) * (int(second.max()) + 1) + second, return_inverse=True)[1]


def linked_rows(keys: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the unit of every row, `(rows,)`: rows with an equal key, directly or through others.

    There are up to two keys, arrays of codes `(rows,)`; without keys the result is `None`.

    >>> linked_rows([np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])])
    array([0, 0, 0, 1], dtype=int32)
    """
    if len(keys) < 2:
        return keys[0] if keys else None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = keys
    n, m = int(first.max()) + 1, int(second.max()) + 1
    links = coo_array((np.ones(len(first)), (first, second + n)), shape=(n + m, n + m))
    return connected_components(links, directed=False)[1][first]


def units_of_task(units: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Return the units of a task's rows, numbered by first appearance; `None` if no two rows share one."""
    if units is None:
        return None
    numbers: dict[int, int] = {}
    own = np.array([numbers.setdefault(unit, len(numbers)) for unit in units[rows].tolist()], np.int64)
    return None if len(numbers) == len(rows) else own


def can_divide(sizes: Sequence[int], k_shot: int, n_query: int) -> bool:
    """Return whether some units have at least `k_shot` rows and leave at least `n_query`.

    >>> can_divide([3, 1], 2, 2), can_divide([3, 1], 1, 3)
    (False, True)
    """
    n = sum(sizes)
    if n < k_shot + n_query:
        return False
    return max(sizes) <= n - k_shot - n_query + 1 or _has_sum(_sums(sizes)[0], k_shot, n - n_query)


def divide_units(sizes: Sequence[int], k_shot: int, n_query: int, *, spread: bool = False) -> np.ndarray:
    """Return which units are for support, `(units,)` bool, taken greedily in their order.

    A unit is taken only if the later ones can still complete both sides; see `can_divide`.

    Args:
        sizes: rows of each unit, in random order.
        k_shot: minimum of support rows.
        n_query: minimum of query rows.
        spread: take `k_shot` units if possible, for a varied support, instead of as few as suffice.

    >>> divide_units([1, 3, 2], 3, 3)
    array([ True, False,  True])
    """
    most = sum(sizes) - n_query  # rows that the support's units may have
    is_tight = spread or max(sizes) > most - k_shot + 1  # else any order succeeds
    sums = _sums(sizes) if is_tight else []

    def can_complete(place: int, taken: int) -> bool:
        return not is_tight or _has_sum(sums[place], k_shot - taken, most - taken)

    taken, chosen = 0, np.zeros(len(sizes), bool)
    for place, size in enumerate(sizes, 1):
        if taken >= k_shot and not spread:
            break
        is_wanted = not spread or chosen.sum() < k_shot
        if can_complete(place, taken + size) and (is_wanted or not can_complete(place, taken)):
            chosen[place - 1] = True
            taken += size
    return chosen


def divide_classes(
    rng: np.random.Generator,
    classes: np.ndarray,
    groups: np.ndarray,
    *,
    n_way: int,
    k_shot: int,
    n_query: int,
) -> np.ndarray | None:
    """Divide the groups of a task so that `n_way` classes have enough examples on both sides.

    Unlike with one class, no fast exact method is known: 2,048 random divisions are tried.

    Returns:
        Which of the n examples are for support, `(n,)` bool; `None` if no division was found.

    >>> rng = np.random.default_rng(0)
    >>> divide_classes(rng, np.zeros(3, int), np.array([0, 0, 1]), n_way=1, k_shot=1, n_query=2)
    array([False, False,  True])
    """
    counts = np.zeros((groups.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(counts, (groups, classes), 1)
    for _ in range(_N_BATCHES):
        chosen = rng.random((_BATCH_SIZE, len(counts))) < rng.random((_BATCH_SIZE, 1))
        fits = (chosen @ counts >= k_shot) & (~chosen @ counts >= n_query)
        enough = fits.sum(1) >= n_way
        if enough.any():
            return chosen[enough.argmax()][groups]
    return None


def _sums(sizes: Sequence[int]) -> list[int]:
    """Return for every place the subset sums of the sizes from there on: bit s is set where s is one."""
    sums = [1]
    for size in reversed(sizes):
        sums.append(sums[-1] | sums[-1] << size)
    return sums[::-1]


def _has_sum(sums: int, low: int, high: int) -> bool:
    low = max(low, 0)
    return high >= low and (sums >> low) & ((1 << (high - low + 1)) - 1) > 0
