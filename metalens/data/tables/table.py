"""Tasks from the rows of a table: one task is one assay, patient or sensor."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metalens.data.base import Split, TaskDistribution
from metalens.data.checks import check_sizes, warn_of_constants
from metalens.data.tables.columns import (
    Missing,
    TableInputs,
    complete_rows,
    input_columns,
    ready_made,
)
from metalens.data.tables.drawing import LEAST_QUERY, TaskRows
from metalens.data.tables.grouping import (
    descriptors_of_tasks,
    digests,
    for_support_by_role,
    kept_apart,
    pairs,
    refuse_divided,
    refuse_duplicates,
    rows_by_task,
    split_of_tasks,
    units_of,
)
from metalens.data.tables.reading import (
    check_columns,
    class_numbers,
    is_text,
    numbers,
    read_table,
    refuse_missing,
    scale_of,
    standardized,
)
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

if TYPE_CHECKING:
    import pandas as pd

Standardize = Literal["train", "task", "none"]
Kind = Literal["auto", "regression", "classification"]
Duplicates = Literal["together", "refuse", "allow"]


class DrawSettings(TypedDict, total=False):
    """The settings of `TableTasks` that say how tasks are drawn, for subclasses that know their table."""

    n_query: int | None
    n_train_tasks: int | None
    standardize: Standardize
    seed: int


class TableTasks(TaskDistribution):
    """Tasks from a table: a row is an example, and the rows that name the same task belong to it.

    Task number i has `k_shot + n_query` different rows of one task of the table, drawn at random. Training
    goes through the tasks of the table in a new random order each time round; validation and test tasks
    come in the order of their names, number i being the `(i mod P)`-th of P. When they come again, other
    rows are drawn.

    Words as targets are classes. They mean the same in all tasks: class j of every task is `class_names[j]`,
    one output of the network. `k_shot` counts the support rows of all classes together, among them one of
    each class that the task has if there is room, so a task keeps its own balance of classes.

    What is fitted to data (scale and categories of inputs, scale of targets) is fitted to the rows of the
    training tasks alone. In errors rows are counted from 1, below the header.

    Args:
        table: a data frame, or the path of a CSV file, which may be compressed, or of a Parquet file
            (`pip install 'metalens[parquet]'`).
        split: `"train"`, `"val"` or `"test"`.
        task: the column that names the task of a row.
        target: the column to predict: numbers, or words for classes.
        inputs: columns of numbers, which are standardized, or of words, which become an input for each
            category; `None` for all columns that have no other role, or with `smiles` for none. Or ready-made
            inputs as one array, `(rows, *input_shape)`, which are used as they are.
        categorical: those among `inputs` whose numbers are names of categories.
        smiles: a column with molecules, whose Morgan fingerprints are inputs (needs the extra `chem`).
        n_bits: length of a fingerprint.
        kind: of the targets: `"regression"`, `"classification"`, or `"auto"`, for which words and truth
            values are classes and numbers are not.
        classes: the classes in the order of the outputs, where a model knows them already; `None` for those
            of the table.
        missing: of empty cells in inputs: `"refuse"` them; `"mean"` puts the mean of the training tasks
            there, with a further input that marks them, and no category for a word; `"drop"` leaves out the
            row, as it does for an empty target, with a warning that counts them.
        group: a column, such as the patient or the scaffold: rows of a task that say the same there are never
            divided between support and query.
        duplicates: rows of a task with equal inputs: kept `"together"` like a group, a mistake to
            `"refuse"`, or `"allow"`ed on both sides.
        roles: a column that says `support` or `query`, for rows that a benchmark has divided.
        splits: the column that says `train`, `val` or `test`; or the shares of tasks in the three, which
            are then divided by `hashed_order` of their names, whatever `seed`.
        split_seed: another division by shares for every number.
        stratify: a column with a property of tasks, such as the organism, to be divided evenly by the shares.
        disjoint: a column whose values no two splits share, such as the molecule. Half of the values belongs
            to training, a quarter each to validation and testing, by `hashed_order`; other rows of a split's
            tasks are left out.
        descriptors: columns with properties of tasks that become their descriptors: words as 1 for the own
            one and 0 for others, numbers standardized by the training tasks.
        k_shot: support rows per task.
        n_query: query rows per task; `None` for all that are left, at least two. Tasks then differ in size,
            and do not fit into one batch: `evaluate` takes them one by one, and to train on them set it.
        n_train_tasks: how many tasks of the table to train on, chosen at random by the seed; `None` for all.
        standardize: of real targets. `"train"`: subtract the mean and divide by the standard deviation of all
            rows of the training tasks. `"task"`: the same with those of all rows of the task itself, query
            rows included, which a truly new task does not know. `"none"`: targets as they are.
        seed: see `TaskDistribution`.

    Attributes:
        task_names: the P tasks of the split, in the order of their names.
        class_names: the classes in the order of the outputs; empty for real targets.
        encoding: how columns become inputs, to be used for new rows; `None` for ready-made inputs.
        inputs: of all rows of the table that are not left out, also those of other splits.
        input_shape: of one example.
        n_outputs: that a network needs: the number of classes, or 1.
        target_mean: what was subtracted from real targets by `standardize="train"`, else 0.
        target_deviation: by what they were divided, else 1.
        equal_sizes: whether all tasks have as many rows.

    Raises:
        MetaLensError: the table cannot be read, a column is missing or does not hold what it should (with the
            row), a task is in two splits, the split has no tasks with enough rows, or a setting is out of
            range.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"patient": list("aaaabbbbcccc"), "age": range(12), "score": range(12)})
    >>> tasks = TableTasks(table, task="patient", target="score", splits=(0.4, 0.3, 0.3), k_shot=2, n_query=1)
    >>> tasks.batch(range(3)).support.x.shape
    torch.Size([3, 2, 1])
    """

    metrics_of_numbers: ClassVar[tuple[str, ...]] = ("pearson_r2",)  # beside the usual one

    def __init__(
        self,
        table: pd.DataFrame | str | os.PathLike[str],
        split: Split = "train",
        *,
        task: str,
        target: str,
        inputs: Sequence[str] | np.ndarray | Tensor | None = None,
        categorical: Sequence[str] = (),
        smiles: str | None = None,
        n_bits: int = 1024,
        kind: Kind = "auto",
        classes: Sequence[Any] | None = None,
        missing: Missing = "refuse",
        group: str | None = None,
        duplicates: Duplicates = "together",
        roles: str | None = None,
        splits: str | Sequence[float] = (0.7, 0.15, 0.15),
        split_seed: int | None = None,
        stratify: str | None = None,
        disjoint: str | None = None,
        descriptors: Sequence[str] = (),
        k_shot: int = 5,
        n_query: int | None = 15,
        n_train_tasks: int | None = None,
        standardize: Standardize = "train",
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed)
        check_sizes(k_shot=k_shot, n_query=n_query, n_train_tasks=n_train_tasks)
        for name, value, choices in (
            ("standardize", standardize, Standardize),
            ("kind", kind, Kind),
            ("missing", missing, Missing),
            ("duplicates", duplicates, Duplicates),
        ):
            if value not in get_args(choices):
                raise MetaLensError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}.")
        self.k_shot, self.n_query, self.n_train_tasks = k_shot, n_query, n_train_tasks
        self.standardize: Standardize = standardize
        self.equal_sizes = n_query is not None

        import pandas as pd  # takes as long to import as all of MetaLens

        of_tasks = [name for name in (splits, stratify, *descriptors) if isinstance(name, str)]
        of_rows = [name for name in (group, roles, disjoint) if name is not None]
        molecules = [] if smiles is None else [smiles]
        frame = read_table(table, text=[task, *of_rows, *molecules])
        check_columns(frame, [task, target, *of_tasks, *of_rows, *molecules])
        if target in (task, smiles, *of_tasks, *of_rows):
            raise MetaLensError(f"Column {target} is the target and has another role too; name two columns.")
        columns = input_columns(frame, inputs, smiles, [task, target, *of_tasks, *of_rows])
        array = ready_made(inputs, frame) if columns is None else np.empty(0)
        if missing == "drop":
            kept = complete_rows(frame, [target, *(columns or []), *molecules])
            frame, array = frame.iloc[kept], array[kept] if columns is None else array
        for name in (task, *of_rows):
            refuse_missing(frame[name], "fill it, or leave the row out")

        task_codes, names = pd.factorize(frame[task].astype(str).to_numpy(), sort=True)
        rows_of = rows_by_task(task_codes, names.tolist())
        split_of = split_of_tasks(frame, rows_of, splits, split_seed, stratify)
        if disjoint is not None:
            rows_of = kept_apart(frame[disjoint].astype(str).to_numpy(), rows_of, split_of, split_seed)
        y = self._class_numbers(frame[target], kind, classes)
        for_support = None if roles is None else for_support_by_role(frame[roles])
        labels = y if self.class_names else None

        def rows_in(split: str, units: np.ndarray | None = None) -> dict[str, TaskRows]:
            found = {name: rows for name, rows in rows_of.items() if split_of[name] == split}
            return {name: TaskRows.of_table(rows, units, labels, for_support) for name, rows in found.items()}

        of_train = rows_in("train")
        train = self._chosen([name for name, rows in of_train.items() if self._is_enough(rows)])
        if not train and (columns is not None or (standardize == "train" and labels is None)):
            raise MetaLensError(
                f"Scales are those of the training tasks, and of {len(of_train)} none has {self._least}; "
                "lower them, or give the train split more tasks."
            )
        train_rows = np.concatenate([rows_of[name] for name in train]) if train else np.arange(0)
        self.encoding: TableInputs | None = None
        if columns is not None:
            self.encoding = TableInputs.fit(
                frame.iloc[train_rows], columns, categorical=categorical, smiles=smiles, n_bits=n_bits,
                missing=missing,
            )  # fmt: skip
            array = self.encoding.transform(frame)
        self.input_shape = tuple(array.shape[1:])

        keys = [] if group is None else [pd.factorize(frame[group])[0]]
        if duplicates != "allow":
            equal = pd.factorize(digests(array))[0]
            keys.append(equal)
            if duplicates == "refuse":
                refuse_duplicates(frame, pairs(task_codes, equal), task)
        units = units_of([pairs(task_codes, key) for key in keys])
        if for_support is not None and units is not None:
            refuse_divided(frame, units, for_support, task)
        of_split = rows_in(split, units)
        enough = {name: rows for name, rows in of_split.items() if self._is_enough(rows)}
        self._warn_of_small(len(of_split), len(enough))
        if split == "train":
            enough = {name: rows for name, rows in enough.items() if name in set(train)}

        self.task_names = tuple(enough)
        self._tasks = tuple(enough.values())
        self._order = lru_cache(maxsize=4)(self._draw_order)
        self.inputs = torch.from_numpy(array)
        warn_of_constants(y, {name: of.rows for name, of in enough.items()}, target, split)
        self._y = torch.from_numpy(y if self.class_names else self._scaled(y, frame[target], train_rows))
        self._descriptors = torch.zeros(len(self.task_names), 0)
        if descriptors:
            known = [
                descriptors_of_tasks(frame[name], rows_of, self.task_names, train) for name in descriptors
            ]
            self._descriptors = torch.from_numpy(np.concatenate(known, axis=1)).float()

    @property
    def extra_metrics(self) -> Sequence[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of real targets: `metrics_of_numbers`."""
        return () if self.class_names else self.metrics_of_numbers

    def task_name(self, index: int) -> str:
        """Return the name of the table's task that task number `index` is drawn from."""
        return self.task_names[self._place(index)]

    def source(self, index: int) -> str:
        return self.task_name(index)

    def metadata(self) -> dict[str, Any]:
        facts = {"tasks": len(self.task_names), "rows": sum(len(task.rows) for task in self._tasks)}
        if self.class_names:
            return facts | {"classes": list(self.class_names)}
        return facts | {"target_mean": self.target_mean, "target_deviation": self.target_deviation}

    def with_global_labels(self) -> TaskDistribution:
        return self  # a class is the same in all tasks

    def __getitem__(self, index: int) -> Task:
        return pytree.tree_map(lambda tensor: tensor[0], self.batch([index]))

    def batch(self, indices: Sequence[int]) -> Task:
        if len(indices) == 0 or min(indices) < 0:
            raise MetaLensError(f"Task numbers must be 0 or more and at least one, got {list(indices)}.")
        places = [self._place(int(index)) for index in indices]
        drawn = [
            self._tasks[place].draw(self._generator(0, int(index)), self.k_shot, self.n_query)
            for place, index in zip(places, indices, strict=True)
        ]
        sizes = sorted({len(query) for _, query in drawn})
        if len(sizes) > 1:
            raise MetaLensError(
                f"Tasks of one batch must have equal sizes, but with n_query=None these have {sizes[0]} to "
                f"{sizes[-1]} query rows; set n_query, or use one task per batch."
            )
        support, query = (
            Examples(self.inputs[rows].float(), self._y[rows])
            for rows in (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        )
        return Task(support, query, self._descriptors[places])

    @property
    def _least(self) -> str:
        return f"k_shot + n_query = {self.k_shot + (self.n_query or LEAST_QUERY)} rows"

    def _is_enough(self, rows: TaskRows) -> bool:
        return rows.is_enough(self.k_shot, self.n_query)

    def _warn_of_small(self, n: int, n_enough: int) -> None:
        if n_enough == 0:
            raise MetaLensError(
                f"The {self.split} split has {n} tasks, and none with {self._least} or more that can be "
                "divided; lower them, give the split more tasks or, if many rows have equal inputs, set "
                "duplicates='allow'."
            )
        if n_enough < n:
            warnings.warn(
                f"{n - n_enough} of the {n} tasks of the {self.split} split have fewer than {self._least}, "
                "or cannot be divided into them, and are left out; lower k_shot or n_query to keep them.",
                stacklevel=3,
            )

    def _chosen(self, train: list[str]) -> list[str]:
        if self.n_train_tasks is None:
            return train
        if self.n_train_tasks > len(train):
            raise MetaLensError(
                f"n_train_tasks must be at most {len(train)}, the training tasks with enough rows, got "
                f"{self.n_train_tasks}."
            )
        chosen = np.random.default_rng([self.seed, 3]).permutation(len(train))[: self.n_train_tasks]
        return [train[number] for number in sorted(chosen)]

    def _class_numbers(self, column: pd.Series, kind: Kind, known: Sequence[Any] | None) -> np.ndarray:
        """Return targets, `(rows, 1)`, or numbers of classes, `(rows,)`, and note the classes."""
        import pandas as pd  # takes as long to import as all of MetaLens

        refuse_missing(column, "leave the row out, or set missing='drop'")
        self.class_names: tuple[str, ...] = ()
        self.n_outputs = 1
        if kind == "regression" or (
            kind == "auto" and not pd.api.types.is_bool_dtype(column.dtype) and not is_text(column)
        ):
            return numbers(column)[:, None]
        if known is None:
            codes, classes = pd.factorize(column.astype(str) if is_text(column) else column, sort=True)
        else:
            codes, classes = class_numbers(column, known), known
        if len(classes) < 2:
            raise MetaLensError(
                f"Column {column.name} names one class, {classes[0]}, in all rows; classes need at least two."
            )
        if kind == "auto" and 2 * len(classes) > len(column):
            raise MetaLensError(
                f"Column {column.name} names {len(classes)} classes in {len(column)} rows, such as "
                f"{classes[0]!r}; correct it if these are numbers, or set kind='classification'."
            )
        self.class_names = tuple(map(str, classes))
        self.n_classes = self.n_outputs = len(classes)
        return codes.astype(np.int64)

    def _scaled(self, y: np.ndarray, column: pd.Series, train_rows: np.ndarray) -> np.ndarray:
        self.target_mean, self.target_deviation = 0.0, 1.0
        if self.standardize == "train" and len(train_rows):
            self.target_mean, self.target_deviation = scale_of(y[train_rows])
            y = standardized(y, column, self.target_mean, self.target_deviation)
        if self.standardize == "task":
            y = y.copy()
            for task in self._tasks:
                of_task = y[task.rows]
                y[task.rows] = (of_task - of_task.mean()) / (of_task.std() or 1.0)
        return y.astype(np.float32)

    def _place(self, index: int) -> int:
        number, position = divmod(index, len(self.task_names))
        return int(self._order(number)[position]) if self.split == "train" else position

    def _draw_order(self, number: int) -> np.ndarray:
        return self._generator(1, number).permutation(len(self.task_names))

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, get_args(Split).index(self.split), *key])
