"""Which rows of a task of a table become its support and its query set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_QUERY = 2  # rows, where all that are left are asked: a correlation needs two


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task, to be divided into support and query rows again and again.

    Attributes:
        rows: numbers of the rows in the table.
        units: of each row, the number of its unit, or `None` where each row is one by itself. The rows of a
            unit are never in both sets.
        labels: of each row, the number of its class, or `None` for real targets. The support then has each
            class of the task if it has the room; the rest is drawn at random.
        for_support: of each row, whether it may be a support row, and else a query row; `None` for both.
    """

    rows: np.ndarray
    units: np.ndarray | None = None
    labels: np.ndarray | None = None
    for_support: np.ndarray | None = None

    @classmethod
    def of_table(
        cls,
        rows: np.ndarray,
        units: np.ndarray | None,
        labels: np.ndarray | None,
        for_support: np.ndarray | None,
    ) -> TaskRows:
        """Return the rows of a task with their part of what is known about all rows of the table."""
        own = None if units is None else np.unique(units[rows], return_inverse=True)[1]
        if own is not None and (len(own) == 0 or own.max() + 1 == len(own)):
            own = None  # each is one by itself
        of_task = (None if values is None else values[rows] for values in (labels, for_support))
        return cls(rows, own, *of_task)

    def is_enough(self, k_shot: int, n_query: int | None) -> bool:
        """Tell whether the rows can be divided into so many.

        >>> TaskRows(np.arange(4), np.array([0, 0, 0, 1])).is_enough(2, 2)
        False
        """
        n, n_query = len(self.rows), n_query or LEAST_QUERY
        if self.for_support is not None:
            n_support = int(self.for_support.sum())
            return n_support >= k_shot and n - n_support >= n_query
        if self.units is None or n < k_shot + n_query:
            return n >= k_shot + n_query
        sizes = np.bincount(self.units).tolist()
        return max(sizes) <= n - k_shot - n_query + 1 or _has_sum(_sums(sizes)[0], k_shot, n - n_query)

    def draw(
        self, rng: np.random.Generator, k_shot: int, n_query: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return support and query rows; of the latter all that are left where `n_query` is `None`."""
        if n_query is not None and self.units is None and self.labels is None and self.for_support is None:
            drawn = rng.choice(self.rows, k_shot + n_query, replace=False)  # does not shuffle a large task
            return drawn[:k_shot], drawn[k_shot:]
        order = rng.permutation(len(self.rows))
        if self.labels is not None:
            _, first = np.unique(self.labels[order], return_index=True)
            order = np.concatenate([order[np.sort(first)], np.delete(order, first)])
        if self.for_support is not None:
            is_support = self.for_support[order]
        elif self.units is None:
            is_support = np.arange(len(order)) < k_shot
        else:
            units = self.units[order]
            is_support = np.isin(units, self._support_units(units, k_shot, n_query or LEAST_QUERY))
        return self.rows[order[is_support][:k_shot]], self.rows[order[~is_support][:n_query]]

    def _support_units(self, units: np.ndarray, k_shot: int, n_query: int) -> list[int]:
        """Return units with `k_shot` rows or more that leave `n_query`, in the order in which they come."""
        numbers, first, sizes = np.unique(units, return_index=True, return_counts=True)
        in_order = np.argsort(first)
        left = len(units) - n_query  # rows that the support's units may have
        sizes, numbers = sizes[in_order].tolist(), numbers[in_order].tolist()
        # Where no unit is large any order does. Where one is, all others together are few.
        is_tight = max(sizes) > left - k_shot + 1
        sums = _sums(sizes) if is_tight else []
        taken, chosen = 0, []
        for place, size in enumerate(sizes):
            if taken >= k_shot:
                break
            if not is_tight or _has_sum(sums[place + 1], k_shot - taken - size, left - taken - size):
                chosen.append(numbers[place])
                taken += size
        return chosen


def _sums(sizes: list[int]) -> list[int]:
    """Return for every place the sums that the sizes from there on have: bit s is set where s is one."""
    sums = [1]
    for size in reversed(sizes):
        sums.append(sums[-1] | sums[-1] << size)
    return sums[::-1]


def _has_sum(sums: int, low: int, high: int) -> bool:
    low = max(low, 0)
    return high >= low and (sums >> low) & ((1 << (high - low + 1)) - 1) > 0
