"""A fixed set of named tasks; every draw samples new examples."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

import numpy as np

from metalens.data.base import BatchedTasks, Split, round_order
from metalens.data.checks import check_sizes
from metalens.data.splits import divided
from metalens.errors import MetaLensError
from metalens.tasks import Task


class NamedTasks(BatchedTasks):
    """P tasks with names; task number i has examples of one of them, drawn by i.

    Training goes through the tasks in a new random order each round; validation and test tasks come in the
    order of their names, number i being the `(i mod P)`-th of P. A subclass gives the names to `set_tasks`,
    and writes `draw_tasks`.

    Args:
        split: see `TaskDistribution`.
        k_shot: support examples, in classification per class.
        n_query: query examples, in classification per class.
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

    @abstractmethod
    def draw_tasks(self, places: Sequence[int], rngs: Sequence[np.random.Generator]) -> Task:
        """Draw a batch of T tasks.

        Args:
            places: of T tasks, each an index into `task_names`.
            rngs: a generator for each, the only source of randomness.
        """

    def set_tasks(self, train: Collection[str], of_split: Collection[str]) -> list[str]:
        """Set `task_names` from the names of the tasks of the training split and of this split.

        Returns:
            The names of the tasks to train on, by which data may be scaled.

        Raises:
            MetaLensError: the split has no tasks, or fewer than `n_train_tasks`.
        """
        if not of_split:
            raise MetaLensError(f"The {self.split} split has no tasks; give it a larger share of them.")
        chosen = self.choose_tasks(train)
        self.task_names = tuple(chosen if self.split == "train" else sorted(of_split))
        return chosen

    def choose_tasks(self, train: Collection[str]) -> list[str]:
        """Return the names of the `n_train_tasks` tasks to train on, sorted."""
        names = sorted(train)
        if self.n_train_tasks is None:
            return names
        if self.n_train_tasks > len(names):
            raise MetaLensError(
                f"n_train_tasks must be at most {len(names)}, the training tasks with enough examples, got "
                f"{self.n_train_tasks}."
            )
        order = np.random.default_rng([self.seed, 3]).permutation(len(names))
        return [names[number] for number in sorted(order[: self.n_train_tasks])]

    def task_name(self, index: int) -> str:
        return self.task_names[self.place(index)]

    def source(self, index: int) -> str:
        return self.task_name(index)

    def place(self, index: int) -> int:
        """Return which of `task_names` task number `index` is drawn from."""
        number, position = divmod(index, len(self.task_names))
        if self.split != "train":
            return position
        return int(round_order(self.seed, self.split, number, len(self.task_names))[position])

    def _make_batch(self, numbers: list[int]) -> Task:
        return self.draw_tasks(list(map(self.place, numbers)), list(map(self.generator, numbers)))

    def generator(self, index: int) -> np.random.Generator:
        """Return a new generator for the examples of task number `index`."""
        return self._generator(0, index)


def split_tasks(
    names: Collection[str],
    splits: Sequence[float] | Mapping[str, str],
    families: Mapping[str, str] | None = None,
) -> dict[str, Split]:
    """Return the split of every task.

    Args:
        names: of the tasks.
        splits: the shares of tasks in train, val and test, divided by `hashed_order` of their names, whatever
            the seed; or the split of every task by its name.
        families: of every task by its name; shares are then those of families, and a family is in one split.

    Raises:
        MetaLensError: the shares do not add up to 1, a split is unknown or missing, or a family is in two.

    >>> split_tasks(["a", "b", "c"], (0.4, 0.3, 0.3))
    {'a': 'train', 'b': 'test', 'c': 'val'}
    """
    family_of = {name: name if families is None else families[name] for name in names}
    if isinstance(splits, Mapping):
        given = {str(name): split for name, split in splits.items()}
        found: dict[str, str] = {}
        for name in names:
            if (own := given.get(name)) not in get_args(Split):
                raise MetaLensError(f"Task {name} must be in the split train, val or test, got {own}.")
            if found.setdefault(family_of[name], given[name]) != given[name]:
                raise MetaLensError(
                    f"Family {family_of[name]} is in two splits, {found[family_of[name]]} and {given[name]} "
                    f"(task {name}); put all its tasks into one."
                )
        return {name: given[name] for name in names}  # pyright: ignore[reportReturnType] # checked above
    split_of = divided(dict.fromkeys(family_of.values()), splits)
    return {name: split_of[family] for name, family in family_of.items()}
