"""Tasks from the rows of a table: one task is one assay, patient or sensor."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
import torch

from metalens.data.base import Split, TaskDistribution
from metalens.data.checks import check_choices, warn_of_constants
from metalens.data.named_tasks import NamedTasks
from metalens.data.tables.columns import ColumnOptions, Columns
from metalens.data.tables.division import Division
from metalens.data.tables.drawing import MIN_QUERY, TaskRows
from metalens.data.tables.encoded import encode_table, min_rows
from metalens.data.tables.targets import Kind, Standardize
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

if TYPE_CHECKING:
    from metalens.data.tables.columns import Table


_FREQUENT = 0.8  # share of the most frequent class from which accuracy says little


class DrawSettings(TypedDict, total=False):
    """Settings of `TableTasks` for subclasses that know their table."""

    n_query: int | None
    n_train_tasks: int | None
    standardize: Standardize
    seed: int


class TableTasks(NamedTasks):
    """Tasks from a table: a row is an example, and a column names its task.

    Task number i has `k_shot + n_query` different rows of one task of the table, drawn at random. Training
    goes through the tasks in a new random order each round; validation and test tasks come in the order of
    their names, number i being the `(i mod P)`-th of P. Each return to a task draws other rows.

    Words as targets are classes. They mean the same in all tasks: class j of every task is `class_names[j]`,
    one output of the network. `k_shot` counts the support rows of all classes together, among them one of
    each class of the task if there is room, so a task keeps its balance of classes.

    Scales and categories are fitted to the rows of the training tasks alone. Errors count rows from 1, below
    the header.

    Args:
        table: a data frame, the path of a CSV file, which may be compressed, or of a Parquet file
            (`pip install 'metalens[parquet]'`), or arrays by name.
        split: `"train"`, `"val"` or `"test"`.
        task: the column that names the task of a row; not given if tasks are columns, see `wide`.
        target: the column to predict: numbers, or words for classes; the same.
        n_bits: length of a fingerprint.
        kind: of the targets: `"regression"`, `"classification"`, or `"auto"`: words and booleans are classes.
        classes: the classes in the order of the outputs, for a model that knows them; `None` for those of the
            table.
        roles: a column with `support` or `query`, for rows that a benchmark has divided.
        splits: the column with `train`, `val` or `test`; or the shares of tasks in the three, divided by
            `hashed_order` of their names, whatever `seed`; or the split of every task by its name.
        split_seed: selects another division by shares.
        stratify: a column with a property of tasks, such as the organism, to be divided evenly by the shares.
        families: a column with the family of a task, such as the study of an assay; all tasks of a family are
            in one split, and the shares are those of families.
        disjoint: a column whose values no two splits share, such as the molecule, of which salts, ions and
            stereoisomers are one value if it is `smiles`. Half of the values belong
            to training, a quarter each to validation and testing, by `hashed_order`; other rows of a split's
            tasks are left out.
        descriptors: columns with properties of tasks that become their descriptors: words one-hot, numbers
            standardized by the training tasks.
        k_shot: support rows per task.
        n_query: query rows per task; `None` for all that are left, at least two. Tasks of different sizes do
            not fit into one batch: `evaluate` takes them one by one, and training needs a number.
        n_train_tasks: how many tasks of the table to train on, chosen at random by the seed; `None` for all.
        standardize: real targets by the mean and standard deviation of all rows of the training tasks,
            `"train"`, or of the task itself, `"task"`: query rows included, which a truly new task does not
            know; or not, `"none"`.
        seed: see `TaskDistribution`.

    Further settings: `wide`, `inputs`, `categorical`, `exclude`, `smiles`, `missing`, `group`, `duplicates`:
    see `Columns`.

    Attributes:
        task_names: the P tasks of the split, in the order of their names.
        class_names: the classes in the order of the outputs; empty for real targets.
        encoding: of columns as inputs, for new rows; `None` for ready-made inputs.
        inputs: of all rows that are not left out, in all splits.
        input_shape: of one example.
        n_outputs: of a network: the number of classes, or 1.
        target_mean: of real targets with `standardize="train"`, else 0.
        target_deviation: of real targets with `standardize="train"`, else 1.
        equal_sizes: whether all tasks have equally many rows.

    Raises:
        MetaLensError: the table cannot be read, a column is missing or has a wrong cell, a task is in two
            splits, the split has no tasks with enough rows, or a setting is out of range.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"patient": list("aaaabbbbcccc"), "age": range(12), "score": range(12)})
    >>> tasks = TableTasks(table, task="patient", target="score", splits=(0.4, 0.3, 0.3), k_shot=2, n_query=1)
    >>> tasks.batch(range(3)).support.x.shape, tasks.in_split("val").task_names
    (torch.Size([3, 2, 1]), ('c',))
    """

    metrics_of_numbers: ClassVar[tuple[str, ...]] = ("pearson_r2",)  # extra metrics of real targets

    n_query: int | None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        table: Table,
        split: Split = "train",
        *,
        task: str | None = None,
        target: str | None = None,
        n_bits: int = 1024,
        kind: Kind = "auto",
        classes: Sequence[Any] | None = None,
        roles: str | None = None,
        splits: str | Sequence[float] | Mapping[str, str] = (0.7, 0.15, 0.15),
        split_seed: int | None = None,
        stratify: str | None = None,
        families: str | None = None,
        disjoint: str | None = None,
        descriptors: Sequence[str] = (),
        k_shot: int = 5,
        n_query: int | None = 15,
        n_train_tasks: int | None = None,
        standardize: Standardize = "train",
        seed: int = 0,
        **columns: Unpack[ColumnOptions],
    ) -> None:
        min_query = MIN_QUERY if n_query is None else n_query
        super().__init__(split, k_shot=k_shot, n_query=min_query, n_train_tasks=n_train_tasks, seed=seed)
        check_choices(standardize=(standardize, Standardize), kind=(kind, Kind))
        self.standardize: Standardize = standardize
        self.n_query = n_query
        self.equal_sizes = n_query is not None
        given = Columns(task=task, target=target or "", **columns)
        self._table = encode_table(
            table,
            given,
            Division(
                splits=splits, split_seed=split_seed, stratify=stratify, families=families,
                disjoint=disjoint, roles=roles,
            ),
            k_shot=k_shot, n_query=n_query, choose=self.choose_tasks, n_bits=n_bits, kind=kind,
            classes=classes, standardize=standardize, descriptors=descriptors,
        )  # fmt: skip
        self.inputs, self.encoding = self._table.inputs, self._table.encoding
        self.input_shape = tuple(self.inputs.shape[1:])
        self.target, self.class_names = given.target, self._table.class_names
        self.target_mean, self.target_deviation = self._table.target_mean, self._table.target_deviation
        self.n_classes = len(self.class_names) or None
        self.n_outputs = self.n_classes or 1
        self._take_split()

    def in_split(self, split: Split) -> Self:
        """Return the tasks of another split, without reading and encoding the table again."""
        twin = copy(self)
        twin.split = split
        twin._take_split()
        return twin

    def with_shots(self, k_shot: int) -> Self:
        """Return the tasks of the split with another number of support rows, which may be 0."""
        twin = copy(self)
        twin.k_shot = k_shot
        twin._take_split()
        return twin

    def with_validation(self, names: Collection[str]) -> Self:
        """Return the tasks of the split with some training tasks in the split `val`.

        Scales and categories stay those of all training tasks.
        """
        twin = copy(self)
        twin._table = replace(self._table, split_of={**self._table.split_of, **dict.fromkeys(names, "val")})
        twin._take_split()
        return twin

    def large_tasks(self, k_shot: int) -> list[str]:
        """Return the names of the split's tasks with enough rows for a number of support rows."""
        return list(self._large(k_shot))

    @property
    def extra_metrics(self) -> Sequence[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return () if self.class_names else self.metrics_of_numbers

    def metadata(self) -> dict[str, Any]:
        facts = {"tasks": len(self.task_names), "rows": sum(len(task.rows) for task in self._rows)}
        if self.class_names:
            return facts | {"classes": list(self.class_names)}
        return facts | {"target_mean": self.target_mean, "target_deviation": self.target_deviation}

    def with_global_labels(self) -> TaskDistribution:
        return self  # a class is the same in all tasks

    def draw_tasks(self, places: Sequence[int], rngs: Sequence[np.random.Generator]) -> Task:
        rows = [self._rows[place] for place in places]
        drawn = [of.draw(rng, self.k_shot, self.n_query) for of, rng in zip(rows, rngs, strict=True)]
        sizes = sorted({len(query) for _, query in drawn})
        if len(sizes) > 1:
            raise MetaLensError(
                f"Tasks of one batch must have equal sizes, but with n_query=None these have {sizes[0]} to "
                f"{sizes[-1]} query rows; set n_query, or use one task per batch."
            )
        support, query = (
            Examples(self.inputs[rows].float(), self._table.targets[rows])
            for rows in (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        )
        return Task(support, query, self._descriptors[places])

    def examples_by_task(self, n: int) -> dict[str, Examples]:
        rows = {self.task_names[place]: self._rows[place].rows for place in map(self.place, range(n))}
        return {name: Examples(self.inputs[of].float(), self._table.targets[of]) for name, of in rows.items()}

    def warn_of_rare_classes(self) -> bool:
        """Warn if the most frequent class has most rows of a task, or all others only one row each.

        Returns:
            Whether the most frequent class has most rows.
        """
        shares = [
            np.bincount(self._table.raw_targets[task.rows]).max() / len(task.rows) for task in self._rows
        ]
        share = float(np.mean(shares))
        if share >= _FREQUENT:
            warnings.warn(
                f"On average {share:.0%} of the rows of a task have one value of {self.target}, and always "
                "predicting the most frequent one has that accuracy; look at balanced_accuracy and "
                "average_precision.",
                stacklevel=5,
            )
        alone = [
            name for name, task in zip(self.task_names, self._rows, strict=True) if not task.can_ask_classes
        ]
        if alone:
            warnings.warn(
                f"In {len(alone)} of the {len(self.task_names)} tasks of the {self.split} split (such as "
                f"{alone[0]}) no two values of {self.target} have two rows or more; their queries can hardly "
                "tell models apart.",
                stacklevel=5,
            )
        return share >= _FREQUENT

    def _large(self, k_shot: int) -> dict[str, TaskRows]:
        table = self._table
        of_split = {name: rows for name, rows in table.tasks.items() if table.split_of[name] == self.split}
        return {name: rows for name, rows in of_split.items() if rows.is_enough(k_shot, self.n_query)}

    def _take_split(self) -> None:
        table, enough = self._table, self._large(self.k_shot)
        self._warn_of_small(sum(split == self.split for split in table.split_of.values()), len(enough))
        if self.split == "train":
            enough = {name: enough[name] for name in table.train if name in enough}
        self.task_names, self._rows = tuple(enough), tuple(enough.values())
        rows_of = {name: task.rows for name, task in enough.items()}
        warn_of_constants(table.raw_targets, rows_of, self.target, self.split)
        self._descriptors = torch.zeros(len(self.task_names), 0)
        if table.descriptors is not None:
            self._descriptors = table.descriptors[[name in enough for name in table.tasks]]

    def _warn_of_small(self, n: int, n_enough: int) -> None:
        least = min_rows(self.k_shot, self.n_query)
        if n_enough == 0:
            raise MetaLensError(
                f"The {self.split} split has {n} tasks, and none with {least} or more that can be "
                "divided; lower them, give the split more tasks or, if many rows have equal inputs, set "
                "duplicates='allow'."
            )
        if n_enough < n:
            warnings.warn(
                f"{n - n_enough} of the {n} tasks of the {self.split} split have fewer than {least}, "
                "or cannot be divided into them, and are left out; lower k_shot or n_query to keep them.",
                stacklevel=4,
            )
