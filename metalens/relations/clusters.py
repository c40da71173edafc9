"""Clusters of similar tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from metalens.errors import MetaLensError

MAX_GROUPS = 12
MIN_SPREAD = 0.1  # of relations, relative to their mean; below it they are flat
MIN_SILHOUETTE = 0.5  # below which Kaufman and Rousseeuw call groups weak, possibly artificial


@dataclass(frozen=True)
class RelationMap:
    """Relations of n tasks, with their tree and their groups.

    Attributes:
        names: of the tasks, `(n,)`.
        matrix: relations, `(n, n)`, symmetric.
        tree: SciPy's linkage of the distances `1 - m`, average linkage.
        groups: number of the group of every task, `(n,)`, from 0 in the order of the tree.
        silhouette: mean over the tasks, at most 1; nan for a single group.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    tree: np.ndarray
    groups: np.ndarray
    silhouette: float

    @property
    def order(self) -> np.ndarray:
        """The tasks in the order of the tree, `(n,)`."""
        return leaves_list(self.tree)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1

    @property
    def digits(self) -> int:
        """Number of decimals to show: more if relations hardly differ."""
        return 2 if self.between.std() > 0.05 else 4

    @property
    def is_flat(self) -> bool:
        """Whether all tasks are about equally related."""
        return _is_flat(self.between)

    @property
    def between(self) -> np.ndarray:
        """The relations of all pairs of tasks, `(n (n - 1) / 2,)`."""
        return self.matrix[np.triu_indices(len(self.matrix), 1)]


def relation_map(matrix: np.ndarray, names: Sequence[str], n_groups: int | None = None) -> RelationMap:
    """Cluster tasks by their relations.

    Hierarchical clustering with average linkage of the distances `1 - m`. The number of groups, from 2 to 12,
    has the largest silhouette; if that is below 0.5, or all tasks are about equally related, they are one
    group.

    Args:
        matrix: relations, `(n, n)`, of at least 3 tasks.
        names: of the tasks.
        n_groups: number of groups, instead of that of the largest silhouette.

    Raises:
        MetaLensError: there are fewer than 3 tasks or fewer tasks than groups, or relations are not finite.

    >>> map = relation_map(np.kron(np.eye(2), np.ones((3, 3))), list("abcdef"))
    >>> map.groups.tolist(), map.silhouette
    ([0, 0, 0, 1, 1, 1], 1.0)
    """
    n = len(matrix)
    if n < 3:
        raise MetaLensError(f"A relation map needs at least 3 tasks, got {n}.")
    if n_groups is not None and not 1 <= n_groups <= n:
        raise MetaLensError(f"{n} tasks can be in 1 to {n} groups, got {n_groups}.")
    if bad := int((~np.isfinite(matrix)).any(1).sum()):
        raise MetaLensError(
            f"The relations of {bad} of {n} tasks are not finite: adaptation diverged on some of them."
        )
    matrix = (matrix + matrix.T) / 2
    distances, tree = _distances(matrix), cluster_tree(matrix)
    numbers = range(2, min(MAX_GROUPS, n - 1) + 1) if n_groups is None else [n_groups]
    scored = [(_silhouette(distances, groups), groups) for groups in (_cut(tree, k) for k in numbers)]
    silhouette, groups = max(scored, key=lambda pair: pair[0])
    flat = _is_flat(matrix[np.triu_indices(n, 1)])
    if n_groups is None and (flat or not silhouette >= MIN_SILHOUETTE):
        silhouette, groups = math.nan, np.zeros(n, dtype=int)
    return RelationMap(tuple(names), matrix, tree, groups, silhouette if silhouette > -math.inf else math.nan)


def _is_flat(between: np.ndarray) -> bool:
    return bool(between.std() < MIN_SPREAD * between.mean())


def cluster_tree(matrix: np.ndarray) -> np.ndarray:
    """Return SciPy's average linkage of `1 - m_ij`; relations that are not finite count as distance 0."""
    distances = _distances(np.nan_to_num((matrix + matrix.T) / 2, nan=1.0, neginf=1.0))
    return linkage(squareform(distances, checks=False), "average", optimal_ordering=True)


def _distances(matrix: np.ndarray) -> np.ndarray:
    distances = (1 - matrix).clip(min=0)
    np.fill_diagonal(distances, 0)
    return distances


def _cut(tree: np.ndarray, n_groups: int) -> np.ndarray:
    """Return groups, numbered in the order of the tree."""
    groups = fcluster(tree, n_groups, "maxclust")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups[leaves_list(tree)]))}
    return np.array([numbers[group] for group in groups])


def _silhouette(distances: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean silhouette of the tasks; minus infinity if undefined."""
    from sklearn.metrics import silhouette_score  # slow to import

    if not 2 <= len(set(groups)) < len(groups):
        return -math.inf
    return float(silhouette_score(distances, groups, metric="precomputed"))


def relations_as_table(relations: RelationMap) -> pd.DataFrame:
    """Return a row for every task: its name, its group, and its relation to every task, by name.

    >>> table = relations_as_table(relation_map(np.kron(np.eye(2), np.ones((2, 2))), list("abcd")))
    >>> table.columns.tolist(), table.group.tolist()
    (['task', 'group', 'a', 'b', 'c', 'd'], ['A', 'A', 'B', 'B'])
    """
    labels = [group_name(group) for group in relations.groups]
    columns = pd.DataFrame({"task": relations.names, "group": labels})
    return pd.concat([columns, pd.DataFrame(relations.matrix, columns=list(relations.names))], axis=1)


def group_name(number: int) -> str:
    """Return A, B, ... Z, A2, B2 and so on.

    >>> group_name(1), group_name(27)
    ('B', 'B2')
    """
    turn, letter = divmod(number, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn + 1) if turn else "")
