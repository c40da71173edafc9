"""A fixed number of tasks with names, from each of which examples are drawn again and again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

import numpy as np

from metalens.data.base import Recent, Split, TaskDistribution
from metalens.data.checks import check_sizes
from metalens.data.splits import divided
from metalens.errors import MetaLensError
from metalens.tasks import Task

_AT_A_TIME, _TRIES = 64, 32  # divisions of groups that are tried


class NamedTasks(TaskDistribution):
    """P tasks with names; task number i has examples of one of them, drawn by i.

    Training goes through the tasks in a new random order each time round; validation and test tasks come in
    the order of their names, number i being the `(i mod P)`-th of P. A subclass gives the names to
    `set_tasks`, and writes `draw_tasks`.

    Args:
        split: see `TaskDistribution`.
        k_shot: support examples, per class where targets are classes.
        n_query: query examples, per class where targets are classes.
        n_train_tasks: how many tasks to train on, chosen at random by the seed; `None` for all.
        seed: see `TaskDistribution`.

    Attributes:
        task_names: the P tasks of the split, in the order of their names.

    Raises:
        MetaLensError: a size is below 1, or see `TaskDistribution`.
    """

    task_names: tuple[str, ...]

    def __init__(
        self,
        split: Split = "train",
        *,
        k_shot: int = 5,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed)
        check_sizes(k_shot=k_shot, n_query=n_query, n_train_tasks=n_train_tasks)
        self.k_shot, self.n_query, self.n_train_tasks = k_shot, n_query, n_train_tasks
        self._order = Recent(self._draw_order, 4)

    @abstractmethod
    def draw_tasks(self, places: Sequence[int], rngs: Sequence[np.random.Generator]) -> Task:
        """Draw a batch of T tasks.

        Args:
            places: of T tasks, each an index into `task_names`.
            rngs: a generator for each; nothing else may be random.
        """

    def set_tasks(self, train: Collection[str], of_split: Collection[str]) -> list[str]:
        """Take the names of the split's tasks.

        Args:
            train: names of the tasks of the training split.
            of_split: names of the tasks of this split.

        Returns:
            The names of the tasks that are trained on, by which data may be scaled.

        Raises:
            MetaLensError: the split has no tasks, or fewer than `n_train_tasks`.
        """
        if not of_split:
            raise MetaLensError(f"The {self.split} split has no tasks; give it a larger share of them.")
        chosen = sorted(train)
        if self.n_train_tasks is not None:
            if self.n_train_tasks > len(chosen):
                raise MetaLensError(
                    f"n_train_tasks must be at most {len(chosen)}, the training tasks with enough examples, "
                    f"got {self.n_train_tasks}."
                )
            order = np.random.default_rng([self.seed, 3]).permutation(len(chosen))
            chosen = [chosen[number] for number in sorted(order[: self.n_train_tasks])]
        self.task_names = tuple(chosen if self.split == "train" else sorted(of_split))
        return chosen

    def task_name(self, index: int) -> str:
        """Return the name of the task that task number `index` is drawn from."""
        return self.task_names[self.place(index)]

    def source(self, index: int) -> str:
        return self.task_name(index)

    def place(self, index: int) -> int:
        """Return which of `task_names` task number `index` is drawn from."""
        number, position = divmod(index, len(self.task_names))
        return int(self._order(number)[position]) if self.split == "train" else position

    def __getitem__(self, index: int) -> Task:
        return Task.of_tensors([tensor[0] for tensor in self.batch([index]).tensors])

    def batch(self, indices: Sequence[int]) -> Task:
        if len(indices) == 0 or min(indices) < 0:
            raise MetaLensError(f"Task numbers must be 0 or more and at least one, got {list(indices)}.")
        numbers = [int(index) for index in indices]
        return self.draw_tasks(
            [self.place(number) for number in numbers], [self.generator(number) for number in numbers]
        )

    def generator(self, index: int) -> np.random.Generator:
        """Return a new generator for the examples of task number `index`."""
        return self._generator(0, index)

    def _draw_order(self, number: int) -> np.ndarray:
        return self._generator(1, number).permutation(len(self.task_names))

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, get_args(Split).index(self.split), *key])


def split_tasks(
    names: Collection[str],
    splits: Sequence[float] | Mapping[str, str],
    families: Mapping[str, str] | None = None,
) -> dict[str, Split]:
    """Return the split of every task.

    Args:
        names: of the tasks.
        splits: the shares of tasks in train, val and test, which are divided by `hashed_order` of their
            names, whatever the seed; or the split of every task by its name.
        families: of every task by its name; shares are then those of families, and a family is in one split.

    Raises:
        MetaLensError: the shares do not add up to 1, a split has another name or is missing, or a family is
            in two splits.

    >>> split_tasks(["a", "b", "c"], (0.4, 0.3, 0.3))
    {'a': 'train', 'b': 'test', 'c': 'val'}
    """
    family_of = {name: name if families is None else families[name] for name in names}
    if isinstance(splits, Mapping):
        given = {str(name): split for name, split in splits.items()}
        found: dict[str, str] = {}
        for name in names:
            if given.get(name) not in get_args(Split):
                raise MetaLensError(
                    f"Task {name} must be in the split train, val or test, got {given.get(name)}."
                )
            if found.setdefault(family_of[name], given[name]) != given[name]:
                raise MetaLensError(
                    f"Family {family_of[name]} is in two splits, {found[family_of[name]]} and {given[name]} "
                    f"(task {name}); put all its tasks into one."
                )
        return {name: given[name] for name in names}  # pyright: ignore[reportReturnType] # checked above
    split_of = divided(dict.fromkeys(family_of.values()), splits)
    return {name: split_of[family] for name, family in family_of.items()}


def divide_groups(
    rng: np.random.Generator,
    classes: np.ndarray,
    groups: np.ndarray,
    *,
    n_way: int,
    k_shot: int,
    n_query: int,
) -> np.ndarray | None:
    """Divide the groups of a task at random into those for support and those for query examples.

    Args:
        rng: draws the division.
        classes: of the n examples, `(n,)` numbers from 0; all 0 in regression.
        groups: of the n examples, `(n,)` numbers from 0.
        n_way: how many classes must have enough examples on both sides.
        k_shot: support examples that each of them needs.
        n_query: query examples that each of them needs.

    Returns:
        Which examples are for support, `(n,)` bool; `None` where no such division was found.

    >>> rng = np.random.default_rng(0)
    >>> divide_groups(rng, np.zeros(3, int), np.array([0, 0, 1]), n_way=1, k_shot=1, n_query=2)
    array([False, False,  True])
    """
    counts = np.zeros((groups.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(counts, (groups, classes), 1)
    for _ in range(_TRIES):
        chosen = rng.random((_AT_A_TIME, len(counts))) < rng.random((_AT_A_TIME, 1))
        fits = (chosen @ counts >= k_shot) & (~chosen @ counts >= n_query)
        enough = fits.sum(1) >= n_way
        if enough.any():
            return chosen[enough.argmax()][groups]
    return None


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
