"""Draw the support and query rows of a task of a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metalens.data.support_query import can_divide, divide_units, units_of_task

MIN_QUERY = 2  # rows with n_query=None: a correlation needs two


@dataclass(frozen=True)
class TaskRows:
    """The n rows of one task, from which support and query rows are drawn.

    Attributes:
        rows: their numbers in the table.
        units: their units, never divided between support and query; `None` for independent rows.
        labels: their class numbers; `None` for real targets. The support has each class of the task if there
            is room, and if the queries can have two classes; the rest is drawn at random.
        for_support: which are support rows, the others being query rows; `None` for no constraint.
        ranks: the time of each; the earliest are support rows, and rows of a later unit queries. `None` for
            rows without an order.
    """

    rows: np.ndarray
    units: np.ndarray | None = None
    labels: np.ndarray | None = None
    for_support: np.ndarray | None = None
    ranks: np.ndarray | None = None

    @classmethod
    def of_table(cls, rows: np.ndarray, units: np.ndarray | None, *others: np.ndarray | None) -> TaskRows:
        """Return the rows of a task, with units, and labels, roles and ranks of all rows of the table."""
        of_task = (None if values is None else values[rows] for values in others)
        return cls(rows, units_of_task(units, rows), *of_task)

    def is_enough(self, k_shot: int, n_query: int | None) -> bool:
        """Return whether the rows can be divided into support and query sets of these sizes.

        >>> TaskRows(np.arange(4), np.array([0, 0, 0, 1])).is_enough(2, 2)
        False
        """
        n, n_query = len(self.rows), n_query or MIN_QUERY
        if self.for_support is not None:
            n_support = int(self.for_support.sum())
            return n_support >= k_shot and n - n_support >= n_query
        if self.ranks is not None:
            return n >= k_shot and len(self._in_order(k_shot)[1]) >= n_query
        if self.units is None:
            return n >= k_shot + n_query
        return can_divide(np.bincount(self.units).tolist(), k_shot, n_query)

    @property
    def can_ask_classes(self) -> bool:
        """Whether two classes have two rows or more, so that one of each can be asked beside its support."""
        return self.labels is not None and int((np.bincount(self.labels) > 1).sum()) > 1

    def draw(
        self, rng: np.random.Generator, k_shot: int, n_query: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return support and query rows; all that are left for queries if `n_query` is `None`."""
        if self.ranks is not None:
            support, later = self._in_order(k_shot)
            return self.rows[support], self.rows[
                later if n_query is None else rng.permutation(later)[:n_query]
            ]
        if n_query is not None and self.units is None and self.labels is None and self.for_support is None:
            drawn = rng.choice(self.rows, k_shot + n_query, replace=False)  # faster than to shuffle all
            return drawn[:k_shot], drawn[k_shot:]
        order = rng.permutation(len(self.rows))
        if self.labels is not None and self.can_ask_classes:
            _, first = np.unique(self.labels[order], return_index=True)
            order = np.concatenate([order[np.sort(first)], np.delete(order, first)])
        if self.for_support is not None:
            is_support = self.for_support[order]
        elif self.units is None:
            is_support = np.arange(len(order)) < k_shot
        else:
            units = self.units[order]
            numbers, first, sizes = np.unique(units, return_index=True, return_counts=True)
            in_order = np.argsort(first)
            chosen = divide_units(sizes[in_order].tolist(), k_shot, n_query or MIN_QUERY)
            is_support = np.isin(units, numbers[in_order[chosen]])
        return self.rows[order[is_support][:k_shot]], self.rows[order[~is_support][:n_query]]

    def _in_order(self, k_shot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the earliest rows, and of the later ones that share no unit with them."""
        assert self.ranks is not None
        order = np.argsort(self.ranks, kind="stable")
        support, later = order[:k_shot], order[k_shot:]
        return support, later if self.units is None else later[
            ~np.isin(self.units[later], self.units[support])
        ]
