"""Tasks from the rows of a table: one task is one assay, patient or sensor."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metalens.distributions.base import Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

if TYPE_CHECKING:
    import pandas as pd

Standardize = Literal["train", "task", "none"]


class TableTasks(TaskDistribution):
    """Regression tasks from a table: a row is an example, and the rows that name the same task belong to it.

    Task number i has `k_shot + n_query` different rows of one task of the table, drawn at random. Training
    goes through the tasks of the table in a new random order each time round; validation and test tasks
    come in the order of their names, number i being the `(i mod P)`-th of P. When they come again, other
    rows are drawn.

    Args:
        table: a data frame, or the path of a CSV file, which may be compressed.
        split: `"train"`, `"val"` or `"test"`.
        task: the column that names the task of a row.
        target: the column with the number to predict.
        inputs: columns with numbers, which are standardized by mean and deviation over the training tasks; or
            ready-made inputs as one array, `(rows, *input_shape)`, which are used as they are.
        splits: the column that says `train`, `val` or `test`; or the shares of tasks in the three, which
            are then divided by `hashed_order` of their names, whatever the seed.
        k_shot: support rows per task.
        n_query: query rows per task.
        n_train_tasks: how many tasks of the table to train on, chosen at random by the seed; `None` for all.
        standardize: of targets. `"train"`: subtract the mean and divide by the standard deviation of all
            rows of the training tasks. `"task"`: the same with those of all rows of the task itself, query
            rows included, which a truly new task does not know. `"none"`: targets as they are.
        seed: see `TaskDistribution`.

    Attributes:
        task_names: the P tasks of the split, in the order of their names.

    Raises:
        MetaLensError: a column is missing or has no numbers, a task is in two splits, the split has no tasks
            with enough rows, or a setting is out of range.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"patient": list("aaaabbbbcccc"), "age": range(12), "score": range(12)})
    >>> tasks = TableTasks(table, task="patient", target="score", inputs=["age"], splits=(0.4, 0.3, 0.3),
    ...                    k_shot=2, n_query=1)
    >>> tasks.batch(range(3)).support.x.shape
    torch.Size([3, 2, 1])
    """

    further_metrics = ("r2",)

    def __init__(
        self,
        table: pd.DataFrame | str | os.PathLike[str],
        split: Split = "train",
        *,
        task: str,
        target: str,
        inputs: Sequence[str] | np.ndarray | Tensor,
        splits: str | Sequence[float] = (0.7, 0.15, 0.15),
        k_shot: int = 5,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        standardize: Standardize = "train",
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed)
        for name, size in (("k_shot", k_shot), ("n_query", n_query), ("n_train_tasks", n_train_tasks)):
            if size is not None and size < 1:
                raise MetaLensError(f"{name} must be at least 1, got {size}.")
        if standardize not in get_args(Standardize):
            raise MetaLensError(
                f"standardize must be one of {', '.join(get_args(Standardize))}, got {standardize!r}."
            )
        self.k_shot, self.n_query, self.n_train_tasks = k_shot, n_query, n_train_tasks
        self.standardize: Standardize = standardize

        frame = _frame(table)
        _check_columns(frame, [task, *([splits] if isinstance(splits, str) else [])])
        if frame[task].isna().any():
            raise MetaLensError(f"Column {task} must name a task in all rows; leave out the others first.")
        groups = frame.groupby(frame[task].astype(str)).indices
        rows_of = {str(name): np.asarray(rows) for name, rows in groups.items()}
        split_of = _split_of_tasks(frame, rows_of, splits)
        enough = {name: rows for name, rows in rows_of.items() if len(rows) >= k_shot + n_query}
        self._check_enough([name for name in rows_of if split_of[name] == split], enough)
        train = self._chosen(sorted(name for name in enough if split_of[name] == "train"))
        of_split = train if split == "train" else sorted(name for name in enough if split_of[name] == split)
        self.task_names = tuple(of_split)
        self._rows = [enough[name] for name in self.task_names]
        self._order = lru_cache(maxsize=4)(self._draw_order)

        train_rows = np.concatenate([enough[name] for name in train]) if train else np.arange(0)
        y = _numbers(frame, [target])
        if standardize == "task":
            for rows in self._rows:
                y[rows] = _standardized(y[rows], y[rows])
        elif standardize == "train":
            y = _standardized(y, y[train_rows])
        self._y = torch.from_numpy(y).float()
        self._x = self._inputs(frame, inputs, train_rows)

    def task_name(self, index: int) -> str:
        """Return the name of the table's task that task number `index` is drawn from."""
        return self.task_names[self._place(index)]

    def facts(self) -> dict[str, Any]:
        return {"tasks": len(self.task_names), "rows": sum(map(len, self._rows))}

    def __getitem__(self, index: int) -> Task:
        return self.batch([index]).map(lambda examples: Examples(examples.x[0], examples.y[0]))

    def batch(self, indices: Sequence[int]) -> Task:
        if len(indices) == 0 or min(indices) < 0:
            raise MetaLensError(f"Task numbers must be 0 or more and at least one, got {list(indices)}.")
        rows = torch.from_numpy(np.stack([self._draw_rows(int(index)) for index in indices]))
        support, query = (
            Examples(self._x[part].float(), self._y[part])
            for part in (rows[:, : self.k_shot], rows[:, self.k_shot :])
        )
        return Task(support, query)

    def _check_enough(self, names: Sequence[str], enough: Iterable[str]) -> None:
        least = self.k_shot + self.n_query
        few = len(set(names) - set(enough))
        if few == len(names):
            raise MetaLensError(
                f"The {self.split} split has {len(names)} tasks, and none with k_shot + n_query = {least} "
                "rows or more; lower them, or give the split more tasks."
            )
        if few:
            warnings.warn(
                f"{few} of the {len(names)} tasks of the {self.split} split have fewer than k_shot + n_query "
                f"= {least} rows and are left out.",
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

    def _inputs(
        self, frame: pd.DataFrame, inputs: Sequence[str] | np.ndarray | Tensor, train_rows: np.ndarray
    ) -> Tensor:
        if not isinstance(inputs, np.ndarray | Tensor):
            x = _numbers(frame, list(inputs))
            return torch.from_numpy(_standardized(x, x[train_rows])).float()
        if len(inputs) != len(frame):
            raise MetaLensError(
                f"inputs must have one entry for each of the {len(frame)} rows, got {len(inputs)}."
            )
        if isinstance(inputs, np.ndarray) and not inputs.flags.writeable:
            inputs = inputs.copy()  # PyTorch warns about others
        return torch.as_tensor(inputs)

    def _place(self, index: int) -> int:
        number, position = divmod(index, len(self.task_names))
        return int(self._order(number)[position]) if self.split == "train" else position

    def _draw_rows(self, index: int) -> np.ndarray:
        return self._generator(0, index).choice(
            self._rows[self._place(index)], self.k_shot + self.n_query, replace=False
        )

    def _draw_order(self, number: int) -> np.ndarray:
        return self._generator(1, number).permutation(len(self.task_names))

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, get_args(Split).index(self.split), *key])


def hashed_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of their SHA-256 sums: as good as random, and the same everywhere.

    >>> hashed_order(["a", "b", "c"])
    ['c', 'b', 'a']
    """
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _frame(table: pd.DataFrame | str | os.PathLike[str]) -> pd.DataFrame:
    import pandas as pd  # takes as long to import as all of MetaLens

    if isinstance(table, pd.DataFrame):
        return table.reset_index(drop=True)
    try:
        return pd.read_csv(table)
    except (OSError, ValueError) as error:  # of pandas and of what unpacks, all errors are among these
        raise MetaLensError(
            f"Cannot read {os.fspath(table)} as a table ({type(error).__name__}); give a CSV file."
        ) from error


def _check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in frame.columns]:
        raise MetaLensError(
            f"The table has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}."
        )


def _numbers(frame: pd.DataFrame, names: list[str]) -> np.ndarray:
    _check_columns(frame, names)
    for name in names:
        if frame[name].dtype.kind not in "iufb" or not np.isfinite(frame[name]).all():
            raise MetaLensError(
                f"Column {name} must hold finite numbers in all rows; leave out or fill the others first."
            )
    return frame[names].to_numpy(dtype=np.float64, copy=True)


def _standardized(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    deviation = reference.std(0)
    return (values - reference.mean(0)) / np.where(deviation > 0, deviation, 1.0)


def _split_of_tasks(
    frame: pd.DataFrame, rows_of: dict[str, np.ndarray], splits: str | Sequence[float]
) -> dict[str, str]:
    if isinstance(splits, str):
        column = frame[splits].to_numpy()
        found = {name: sorted(set(map(str, column[rows]))) for name, rows in rows_of.items()}
        for name, values in found.items():
            if len(values) > 1 or values[0] not in get_args(Split):
                raise MetaLensError(
                    f"All rows of a task must be in one split, train, val or test, but those of {name} are "
                    f"in {', '.join(values)}; correct column {splits}."
                )
        return {name: values[0] for name, values in found.items()}
    shares = list(splits)
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise MetaLensError(f"splits must be a column or three shares that add up to 1, got {shares}.")
    names = hashed_order(rows_of)
    n_val, n_test = (round(share * len(names)) for share in shares[1:])
    parts = ["val"] * n_val + ["test"] * n_test
    return dict(zip(names, parts + ["train"] * (len(names) - len(parts)), strict=True))
