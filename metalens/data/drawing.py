"""Draw the examples of a task class by class."""

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
        for_support: which examples are for the support set and which for the query set, `(n,)` bool; `None`
            for no constraint.
        n_way: number of classes.
        k_shot: support examples of each.
        n_query: query examples of each.
        in_order: whether classes are sorted.

    Returns:
        The classes `(n_way,)`, and places of the support `(n_way, k_shot)` and query examples.
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
    """Return the classes that have enough examples; see `draw_examples`."""
    if for_support is None:
        return np.flatnonzero(np.bincount(classes) >= k_shot + n_query)
    n = classes.max() + 1
    counts = [np.bincount(classes[side], minlength=n) for side in (for_support, ~for_support)]
    return np.flatnonzero((counts[0] >= k_shot) & (counts[1] >= n_query))
