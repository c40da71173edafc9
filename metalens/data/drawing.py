"""Draw the examples of a task class by class."""

from __future__ import annotations

import numpy as np


def draw_examples(
    rng: np.random.Generator,
    classes: np.ndarray,
    for_support: np.ndarray | None,
    *,
    n_way: int,
    k_shot: int,
    n_query: int,
    in_order: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the classes of a task at random, and different support and query examples of each.

    Args:
        rng: draws them.
        classes: of the n examples, `(n,)` numbers from 0; all 0 in regression.
        for_support: which examples may be in the support set, the others being for the query set, `(n,)`
            bool; `None` where each may be in either.
        n_way: how many classes.
        k_shot: support examples of each.
        n_query: query examples of each.
        in_order: whether classes come in the order of their numbers, or a random one.

    Returns:
        The classes `(n_way,)`, and places of the support `(n_way, k_shot)` and query examples.

    >>> rng, classes = np.random.default_rng(0), np.array([0, 0, 1, 1])
    >>> draw_examples(rng, classes, None, n_way=2, k_shot=1, n_query=1, in_order=True)[0]
    array([0, 1])
    """
    fits = enough_examples(classes, for_support, k_shot=k_shot, n_query=n_query)
    chosen = rng.choice(fits, n_way, replace=False)
    if in_order:
        chosen.sort()
    support, query = [], []
    for number in chosen:
        places = np.flatnonzero(classes == number)
        if for_support is None:
            both = rng.choice(places, k_shot + n_query, replace=False)
            support.append(both[:k_shot])
            query.append(both[k_shot:])
        else:
            support.append(rng.choice(places[for_support[places]], k_shot, replace=False))
            query.append(rng.choice(places[~for_support[places]], n_query, replace=False))
    return chosen, np.stack(support), np.stack(query)


def enough_examples(
    classes: np.ndarray, for_support: np.ndarray | None, *, k_shot: int, n_query: int
) -> np.ndarray:
    """Return the classes that have enough examples; see `draw_examples`.

    >>> enough_examples(np.array([0, 1, 1]), None, k_shot=1, n_query=1)
    array([1])
    """
    if for_support is None:
        return np.flatnonzero(np.bincount(classes) >= k_shot + n_query)
    n = classes.max() + 1
    counts = [np.bincount(classes[side], minlength=n) for side in (for_support, ~for_support)]
    return np.flatnonzero((counts[0] >= k_shot) & (counts[1] >= n_query))
