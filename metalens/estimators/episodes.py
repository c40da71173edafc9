"""Tables whose tasks have different classes: episodes of a few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from metalens.data import ArrayTasks
from metalens.data.base import Split
from metalens.data.tables.cells import names as words_of
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.data.tables.encoding import TableInputs
from metalens.data.tables.reading import check_columns, refuse_missing
from metalens.errors import MetaLensError
from metalens.estimators.notes import note_identifiers
from metalens.estimators.tables import TableReader

if TYPE_CHECKING:
    import pandas as pd

MAX_WAY, MAX_SHOT, MAX_QUERY = 5, 5, 10  # by default
_SMALL_SHARE = 0.1  # of classes that may be too small for the default sizes
_SPARED = 0.25  # share of tasks that may have too few classes of that size


class Sizes(NamedTuple):
    """The sizes of an episode: classes, and the support and query examples of each."""

    n_way: int
    k_shot: int
    n_query: int


class Episodes(ArrayTasks):
    """Episodes of the classes of a split, which is one task of `ArrayTasks`; named by number."""

    def task_name(self, index: int) -> str:
        return str(index)


def episode_sizes(
    counts: Mapping[Any, Mapping[str, Sequence[int]]],
    n_way: int | None,
    k_shot: int | None,
    n_query: int | None,
    *,
    spared: float = 0.0,
) -> Sizes:
    """Return the sizes of episodes, by default such that nine in ten classes are large enough.

    Args:
        counts: for each split or task, by domain, the numbers of examples of its classes; the classes of an
            episode are of one domain.
        n_way: classes; by default 5, or as many as each split or task has.
        k_shot: support examples of a class; by default half of them, at most 5.
        n_query: query examples of a class; by default the rest, at most 10.
        spared: share of tasks that may have too few classes, and are then left out.

    Raises:
        MetaLensError: a split or task has fewer than two classes with enough examples.

    >>> episode_sizes({"train": {"": [20, 30, 4, 12]}, "val": {"": [12, 12, 40]}}, None, None, None)
    Sizes(n_way=3, k_shot=4, n_query=4)
    """
    everywhere = [n for domains in counts.values() for of_domain in domains.values() for n in of_domain]
    least = int(np.quantile(everywhere, _SMALL_SHARE)) if everywhere else 0
    k_shot = k_shot or min(max(least // 2, 1), MAX_SHOT)
    n_query = n_query or min(max(least - k_shot, 1), MAX_QUERY)
    large = {
        place: max(sum(n >= k_shot + n_query for n in of_domain) for of_domain in domains.values())
        for place, domains in counts.items()
    }
    fits = int(np.quantile(list(large.values()), spared))
    if n_way is None and fits < 2:
        where = "many tasks have" if spared else f"split {min(large, key=large.__getitem__)} has"
        raise MetaLensError(
            f"Episodes need at least 2 classes with k_shot + n_query = {k_shot + n_query} examples in each "
            f"{'task' if spared else 'split'}, and {where} {fits}; give more classes or examples, or lower "
            "k_shot and n_query."
        )
    return Sizes(n_way or min(MAX_WAY, fits), k_shot, n_query)


def fit_episodes(
    columns: Columns,
    frame: pd.DataFrame,
    division: Division,
    *,
    n_way: int | None,
    k_shot: int | None,
    n_query: int | None,
    seed: int,
) -> tuple[TableReader, dict[Split, ArrayTasks], Sizes]:
    """Return the reader fitted to the training part of a table, the episodes of each split, and their sizes.

    With a column of tasks, these are divided, and an episode has classes of one task. Without it, classes are
    divided, and an episode has any of them. See `ArrayTasks` and `episode_sizes` for the settings.
    """
    if columns.duplicates == "refuse":
        raise MetaLensError("duplicates='refuse' is for tasks that share classes; use 'together' or 'allow'.")
    if columns.order is not None:
        raise MetaLensError("order is for tasks with numbers or shared classes; leave it out.")
    target, task = columns.target, columns.task
    names = columns.input_columns(frame, division.task_columns)
    if names is None:
        raise MetaLensError("inputs must name columns, got an array; make it columns of the table.")
    note_identifiers(columns, frame, names)
    kept = columns.kept_rows(frame, [target, *names])
    if len(kept) < len(frame):
        frame = frame.iloc[kept]
    labels, owner = _labels(frame, target), _labels(frame, task or target)
    owners, codes = np.unique(owner, return_inverse=True)
    _, split_of = division.divide(frame, codes, owners.tolist())
    of_rows = np.array([split_of[name] for name in owner.tolist()])
    settings: dict[str, Any] = {name: vars(columns)[name] for name in ("categorical", "smiles", "missing")}
    encoding = TableInputs.fit(frame[of_rows == "train"], names, **settings)
    by_place = frame.groupby([of_rows if task is None else owner, labels]).size().groupby(level=0)
    counts: dict[Any, dict[str, list[int]]] = {}
    if task is None:
        counts = {split: {"": []} for split in get_args(Split)}
    counts |= {place: {"": of_place.tolist()} for place, of_place in by_place}
    sizes = episode_sizes(counts, n_way, k_shot, n_query, spared=0.0 if task is None else _SPARED)
    train = _episodes(columns, frame, encoding.transform(frame), of_rows, "train", sizes, seed)
    tasks: dict[Split, ArrayTasks] = {split: train.in_split(split) for split in ("val", "test")}
    return TableReader(columns.of_new_tables(frame, names), encoding), {"train": train, **tasks}, sizes


def new_episodes(
    reader: TableReader, frame: pd.DataFrame, array: np.ndarray, sizes: Sizes, seed: int
) -> ArrayTasks:
    """Return episodes of all classes of a new table, with inputs as the model takes them, `(rows, d)`."""
    return _episodes(reader.columns, frame, array, np.full(len(frame), "test"), "test", sizes, seed)


def _episodes(
    columns: Columns,
    frame: pd.DataFrame,
    array: np.ndarray,
    split_of: np.ndarray,
    split: Split,
    sizes: Sizes,
    seed: int,
) -> ArrayTasks:
    task, group = columns.task, columns.group
    owner, labels = split_of, _labels(frame, columns.target)
    if task is not None:  # classes of different tasks are different, even with equal names
        owner = _labels(frame, task)
        labels = np.array([f"{name}/{label}" for name, label in zip(owner, labels, strict=True)])
    data = {"x": array, "y": labels, "task": owner, "split": split_of}
    if group is not None:
        data["group"] = _labels(frame, group)
    return (Episodes if task is None else ArrayTasks)(
        data,
        split,
        group=None if group is None else "group",
        duplicates="allow" if columns.duplicates == "allow" else "together",
        splits="split",
        scale_inputs=False,
        seed=seed,
        **sizes._asdict(),
    )


def _labels(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as text."""
    check_columns(frame, [name])
    refuse_missing(frame[name], "fill it, or leave the row out")
    return words_of(frame[name]).to_numpy(dtype=str)
