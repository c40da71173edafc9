"""Tasks from arrays: any shape of input, real targets or classes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch

from metalens.data.base import Split
from metalens.data.checks import as_array, check_choices, check_finite, warn_of_constants
from metalens.data.drawing import draw_examples, enough_examples
from metalens.data.inputs import ArrayInputs
from metalens.data.named_tasks import NamedTasks, split_tasks
from metalens.data.npz import read_npz
from metalens.data.support_query import (
    divide_classes,
    linked_rows,
    pairs,
    rows_by_task,
    units_of_task,
)
from metalens.data.tables.targets import Standardize
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

Duplicates = Literal["together", "allow"]


class Members(NamedTuple):
    """The n examples of one task."""

    rows: np.ndarray  # their places in the arrays
    classes: np.ndarray  # numbers from 0; all 0 in regression
    groups: np.ndarray | None  # numbers from 0
    for_support: np.ndarray | None  # one possible division of the groups, bool


class ArrayTasks(NamedTasks):
    """Regression or classification tasks from arrays: entry j of each belongs to example j.

    Floating-point targets mean regression; integers, text and booleans are classes. Task number i has
    `k_shot + n_query` different examples of one task of the data, in classification of each class. Training
    goes through the tasks in a new random order each round; validation and test tasks come in the order of
    their names. Each return to a task draws other examples.

    Inputs of type uint8 are divided by 255. Others are standardized by mean and deviation over the examples
    of the training tasks: each entry separately if an input is a vector, all entries together otherwise.
    Several inputs of an example are `fields`, packed into one vector for a network by `wrap(fields=)`; whole
    numbers other than bytes then stay what they are, as an embedding takes them.

    Args:
        data: arrays by name, or the path of an `.npz` file; uncompressed inputs are read on demand. Objects
            and pickles are refused.
        split: `"train"`, `"val"` or `"test"`.
        x: name of the inputs, `(N, *input_shape)` numbers; or names of several, which are the fields.
        y: name of the targets: classes `(N,)`, or real targets `(N,)` or `(N, c)`.
        task: name of the array with the task of each example, `(N,)` text or integers.
        group: name of the array of groups, `(N,)`: examples of one group, such as frames of a film, are
            never in both the support and the query set of a task; `None` for independent examples.
        duplicates: examples of a task with equal inputs are kept `"together"` like a group, or `"allow"`ed in
            both the support and the query set.
        family: name of the array of families of tasks, `(N,)`: tasks of one family are never in two splits;
            `None` for independent tasks.
        splits: name of the array with `train`, `val` or `test`, `(N,)`; or the split of every task by name;
            or shares, by which tasks (or families) are divided in `hashed_order`, whatever the seed.
        n_way: classes per task, drawn at random for each task and numbered in random order; `None` for all,
            which then mean the same in every task.
        k_shot: support examples per task, or per class.
        n_query: query examples per task, or per class.
        n_train_tasks: how many tasks to train on, chosen at random by the seed; `None` for all.
        standardize: real targets: `"train"`, `"task"` or `"none"`, see `TableTasks`.
        scale_inputs: whether to scale inputs as described above.
        seed: see `TaskDistribution`.

    Attributes:
        task_names: the P tasks of the split, in the order of their names.
        class_names: the classes in the order of their numbers, or `None` in regression.
        fields: of inputs from several arrays, or `None`.

    Raises:
        MetaLensError: an array is missing, has another length, or holds objects or non-finite numbers; a task
            or family is in two splits; the split has no task with enough examples; a setting is out of range.

    >>> rng = np.random.default_rng(0)
    >>> data = {"x": rng.random((60, 2, 3)), "y": rng.random(60), "task": np.arange(60) // 10}
    >>> tasks = ArrayTasks(data, "train", k_shot=4, n_query=3)
    >>> tasks.batch(range(8)).support.x.shape
    torch.Size([8, 4, 2, 3])
    >>> data["site"] = np.arange(60) % 7
    >>> ArrayTasks(data, "train", x=["x", "site"], k_shot=4, n_query=3).fields
    Fields(x=(2, 3), site=() integers)
    """

    extra_metrics: Sequence[str] = ("pearson_r2",)

    def __init__(
        self,
        data: Mapping[str, Any] | str | os.PathLike[str],
        split: Split = "train",
        *,
        x: str | Sequence[str] = "x",
        y: str = "y",
        task: str = "task",
        group: str | None = None,
        duplicates: Duplicates = "together",
        family: str | None = None,
        splits: str | Sequence[float] | Mapping[str, str] = (0.7, 0.15, 0.15),
        n_way: int | None = None,
        k_shot: int = 5,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        standardize: Standardize = "train",
        scale_inputs: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(split, k_shot=k_shot, n_query=n_query, n_train_tasks=n_train_tasks, seed=seed)
        check_choices(standardize=(standardize, Standardize), duplicates=(duplicates, Duplicates))
        labels = [task, *(name for name in (group, family) if name is not None)]
        labels += [splits] if isinstance(splits, str) else []
        inputs: list[Any] = list(x) if isinstance(x, list | tuple) else [x]
        _check_fields(inputs)
        arrays = _arrays(data, [*inputs, y, *labels])
        text = {name: _labels(arrays[name], name) for name in labels}
        self._x = ArrayInputs({name: arrays[name] for name in inputs}, packed=not isinstance(x, str))
        self.fields = self._x.fields
        self._y, self.class_names = _targets(arrays[y], y)
        self.n_way = self._checked_way(n_way)
        self.n_classes = None if self.class_names is None else len(self.class_names)

        names, task_of = np.unique(text[task], return_inverse=True)
        families = None if family is None else _of_tasks(names, task_of, text[family], family)
        by_task = _of_tasks(names, task_of, text[splits], splits) if isinstance(splits, str) else splits
        self._split_of = split_tasks(names.tolist(), by_task, families)
        keys = [] if group is None else [np.unique(text[group], return_inverse=True)[1]]
        keys += [self._x.equal()] if duplicates == "together" else []
        units = linked_rows([pairs(task_of, key) for key in keys])
        rows_of = rows_by_task(task_of, names.tolist())
        found = {name: self._members_of(rows, units) for name, rows in rows_of.items()}
        self._members = {name: members for name, members in found.items() if members is not None}
        self._target = y
        self._pool: np.ndarray | None = None
        self._in_order = self.n_way == self.n_classes
        self._take_split()

        train = self.choose_tasks(self._names_in("train"))
        train_rows = np.sort(np.concatenate([self._members[name].rows for name in train] or [np.arange(0)]))
        by_train = scale_inputs and self._x.need_statistics
        by_train |= standardize == "train" and self.class_names is None
        if by_train and not train:
            raise MetaLensError(
                "Inputs and targets are scaled by the training tasks, and there is none with enough "
                "examples; give the train split more, or set scale_inputs=False and standardize='none'."
            )
        if scale_inputs:
            self._x.standardize(train_rows)
        if self.class_names is None and standardize != "none":
            self._standardize_targets(train_rows, by_task=standardize == "task")

    def in_split(self, split: Split) -> Self:
        """Return the tasks of another split, without checking and grouping the arrays again.

        >>> data = {"x": np.arange(60.0), "y": np.arange(60.0), "task": np.arange(60) // 10}
        >>> train = ArrayTasks(data, splits=(0.4, 0.3, 0.3), k_shot=2, n_query=2)
        >>> train.task_names, train.in_split("val").task_names
        (('2', '5'), ('3', '4'))
        """
        twin = copy(self)
        twin.split = split
        twin._take_split()
        return twin

    def metadata(self) -> dict[str, Any]:
        facts = {"tasks": len(self.task_names), "examples": sum(len(m.rows) for m in self._of_split)}
        return facts if self.n_classes is None else {**facts, "classes": self.n_classes}

    def with_global_labels(self) -> ArrayTasks:
        """Return the same tasks with targets `0 ... n_classes - 1`, the classes of the split."""
        if self.class_names is None:
            return self
        twin = copy(self)
        twin._pool = np.unique(np.concatenate([members.classes for members in self._of_split]))
        twin.n_classes = len(twin._pool)
        return twin

    def draw_tasks(self, places: Sequence[int], rngs: Sequence[np.random.Generator]) -> Task:
        drawn = [self._draw(place, rng) for place, rng in zip(places, rngs, strict=True)]
        classes, *parts = (np.stack(of_all) for of_all in zip(*drawn, strict=True))
        support, query = (self._examples(rows, classes) for rows in parts)
        return Task(support, query).as_batch()

    def _draw(self, place: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, classes, groups, for_support = self._of_split[place]
        sizes = {"n_way": self.n_way, "k_shot": self.k_shot, "n_query": self.n_query}
        if groups is not None:
            division = divide_classes(rng, classes, groups, **sizes)
            for_support = for_support if division is None else division
        chosen, support, query = draw_examples(rng, classes, for_support, **sizes, in_order=self._in_order)
        return chosen, rows[support], rows[query]

    def _examples(self, rows: np.ndarray, classes: np.ndarray) -> Examples:
        n = len(rows)
        flat = rows.reshape(n, -1)
        x = self._x[flat]
        if self.class_names is None:
            return Examples(x, torch.from_numpy(self._y[flat]))
        if self._pool is not None:
            slots = np.searchsorted(self._pool, classes)
        else:
            slots = classes if self._in_order else np.broadcast_to(np.arange(self.n_way), classes.shape)
        return Examples(x, torch.from_numpy(slots.astype(np.int64).repeat(rows.shape[2], axis=1)))

    def _checked_way(self, n_way: int | None) -> int:
        if self.class_names is None and n_way is not None:
            raise MetaLensError(f"n_way is for classes, and the targets are real; got {n_way}.")
        most = len(self.class_names or "1")
        if n_way is not None and not 2 <= n_way <= most:
            raise MetaLensError(f"n_way must be between 2 and {most}, the number of classes, got {n_way}.")
        return n_way or most

    def _members_of(self, rows: np.ndarray, units: np.ndarray | None) -> Members | None:
        """Return the examples of a task with their groups, or `None` if they are too few."""
        classes = np.zeros(len(rows), np.int64) if self.class_names is None else self._y[rows]
        groups, sizes = units_of_task(units, rows), {"k_shot": self.k_shot, "n_query": self.n_query}
        if groups is None:
            enough = len(enough_examples(classes, None, **sizes)) >= self.n_way
            return Members(rows, classes, None, None) if enough else None
        rng = np.random.default_rng(0)
        for_support = divide_classes(rng, classes, groups, n_way=self.n_way, **sizes)
        return None if for_support is None else Members(rows, classes, groups, for_support)

    def _names_in(self, split: Split) -> list[str]:
        return [name for name in self._members if self._split_of[name] == split]

    def _take_split(self) -> None:
        of_split = [name for name, split in self._split_of.items() if split == self.split]
        self._report_small([name for name in of_split if name not in self._members], len(of_split))
        self.set_tasks(self._names_in("train"), self._names_in(self.split))
        self._of_split = [self._members[name] for name in self.task_names]
        rows_of = {name: self._members[name].rows for name in self.task_names}
        warn_of_constants(self._y, rows_of, self._target, self.split)

    def _report_small(self, few: Sequence[str], n: int) -> None:
        if not few:
            return
        per_class = "" if self.class_names is None else f" in each of {self.n_way} classes"
        sizes = f"k_shot + n_query = {self.k_shot} + {self.n_query} examples{per_class}, no group in both"
        if len(few) == n:
            raise MetaLensError(
                f"None of the {n} tasks of the {self.split} split (such as {few[0]}) has {sizes}; lower "
                "k_shot or n_query, or add examples."
            )
        warnings.warn(
            f"{len(few)} of the {n} tasks of the {self.split} split (such as {few[0]}) do not have {sizes}, "
            "and are left out.",
            stacklevel=4,
        )

    def _standardize_targets(self, train_rows: np.ndarray, *, by_task: bool) -> None:
        y = self._y.astype(np.float64)
        pairs = [(m.rows, m.rows) for m in self._members.values()] if by_task else [(slice(None), train_rows)]
        for rows, reference in pairs:
            deviation = y[reference].std(0)
            y[rows] = (y[rows] - y[reference].mean(0)) / np.where(deviation > 0, deviation, 1.0)
        self._y = y.astype(np.float32)


def _check_fields(names: list[str]) -> None:
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise MetaLensError(f"x must name one array, or several once each, got {names}.")


def _arrays(data: Mapping[str, Any] | str | os.PathLike[str], names: list[str]) -> dict[str, np.ndarray]:
    if not isinstance(data, Mapping | str | os.PathLike):
        raise MetaLensError(
            f"ArrayTasks needs arrays by name or the path of an .npz file, got {type(data).__name__}; for a "
            "data frame use TableTasks."
        )
    if not isinstance(data, Mapping):
        found = read_npz(data, names)
    elif missing := [name for name in names if name not in data]:
        known = ", ".join(map(str, data)) or "none"
        raise MetaLensError(f"The data have no array {', '.join(missing)}; they have {known}.")
    elif several := [name for name in names if isinstance(data[name], Mapping)]:
        parts = ", ".join(map(repr, data[several[0]]))
        raise MetaLensError(
            f"{several[0]} holds several arrays; put each into the data by its name, and give x=[{parts}]."
        )
    else:
        found = {name: as_array(data[name], name) for name in names}
    n = len(found[names[0]]) if found[names[0]].ndim else 0
    for name, array in found.items():
        if array.ndim == 0 or len(array) != n or n == 0:
            raise MetaLensError(
                f"Array {name} must have an entry for each of the {n} examples of {names[0]}, got the shape "
                f"{array.shape}; give arrays of one length, above 0."
            )
    return found


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    """Return integers or text as text."""
    if array.ndim != 1 or array.dtype.kind not in "iubUS":
        raise MetaLensError(
            f"Array {name} must hold one text or whole number for each example, got {array.dtype} of shape "
            f"{array.shape}."
        )
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError as error:
        raise MetaLensError(f"Array {name} holds text that is not in UTF-8 ({error.reason}).") from error


def _targets(array: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return real targets `(N, c)`, or class numbers `(N,)` and the names of the classes."""
    if array.dtype.kind == "f":
        if array.ndim > 2:
            raise MetaLensError(f"Real targets {name} must be (N,) or (N, c), got {array.shape}.")
        check_finite(array, name)
        return array.reshape(len(array), -1).astype(np.float32), None
    if array.ndim != 1 or array.dtype.kind not in "iubUS":
        raise MetaLensError(
            f"Targets {name} must be real numbers, or one class for each example, got {array.dtype} of shape "
            f"{array.shape}."
        )
    classes, numbers = np.unique(array, return_inverse=True)
    if len(classes) < 2:
        raise MetaLensError(
            f"Targets {name} are whole numbers or text, and so classes, but all are {classes[0]}; give two "
            "classes or more, or real numbers for regression."
        )
    return numbers, tuple(map(str, classes.tolist()))


def _of_tasks(names: np.ndarray, task_of: np.ndarray, values: np.ndarray, what: str) -> dict[str, str]:
    """Return the value of every task, the same for all of its examples."""
    first = np.zeros(len(names), np.int64)
    first[task_of[::-1]] = np.arange(len(task_of))[::-1]
    if (differs := values != values[first][task_of]).any():
        row = int(differs.argmax())
        raise MetaLensError(
            f"All examples of a task must have one {what}, but of task {names[task_of[row]]} example "
            f"{first[task_of[row]]} has {values[first[task_of[row]]]} and example {row} has {values[row]}."
        )
    return dict(zip(names.tolist(), values[first].tolist(), strict=True))
