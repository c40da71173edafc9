"""Inputs, targets and groups as scikit-learn gives them, as one table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite

from metalens.data.tables.columns import ColumnOptions
from metalens.data.tables.reading import frame_of_arrays
from metalens.errors import MetaLensError
from metalens.estimators.images import ImageReader
from metalens.estimators.tables import TableReader

if TYPE_CHECKING:
    import pandas as pd


class Given(NamedTuple):
    """A table, and the columns with the target and the task of a row; `None` if it has none."""

    data: Any
    target: str | None
    task: str | None


def as_table(
    data: Any,
    y: Any,
    groups: Any,
    target: str | None,
    task: str | None,
    *,
    classes: bool = False,
    **columns: Unpack[ColumnOptions],
) -> Given:
    """Return inputs `(n, d)`, targets `(n,)` and groups `(n,)` as one table; a table without `y` as it is.

    The columns of an array are `x 0`, `x 1` and so on. Targets and groups keep the names that they have as
    a series of pandas; otherwise they are `y` and `groups`.

    Args:
        data: a data frame or an array of inputs; or a table, the path of a file or of a folder.
        y: targets; `None` if the table holds them.
        groups: the task of every row; `None` if a column of the table names it, or there is none.
        target: column of the table with the targets, if there is no `y`.
        task: column of the table with the task of a row, if there are no `groups`.
        classes: whether the targets are classes.
        columns: of `fit`; an array may have nan unless `missing` is to refuse it.

    Raises:
        MetaLensError: something is given twice or not at all, or two columns have one name.
        ValueError: of scikit-learn, if an array has another shape or length, or holds nan or infinity.

    >>> as_table([[0.5], [1.5]], [1, 2], ["a", "b"], None, None).data.columns.tolist()
    ['x 0', 'y', 'groups']
    """
    if y is None:
        _refuse_groups(groups)
        if not _is_table(data):
            raise MetaLensError(
                "An array of inputs requires y to be passed, but the target y is None; give y, or a data "
                "frame with a column target."
            )
        return Given(data, target, task)
    if target is not None:
        raise MetaLensError(f"Give y or target, the column with it; got both, target={target!r}.")
    if task is not None and groups is not None:
        raise MetaLensError(f"Give groups or task, the column with them; got both, task={task!r}.")
    missing = columns.get("missing", "refuse")
    frame = _inputs(data, partial(_checked, missing=missing, least=2))
    names = {"y": _name(y, "y"), "groups": task if groups is None else _name(groups, "groups")}
    table = _joined(frame, y, groups, names)
    if classes:
        check_classification_targets(y)
    return Given(table, names["y"], names["groups"])


def check_options(estimator: Any, options: Mapping[str, Any]) -> None:
    """Raise `MetaLensError` if `fit` of an estimator has no such settings.

    >>> from metalens import MetaRegressor
    >>> check_options(MetaRegressor(), {"grup": "site"})
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: MetaRegressor.fit has no setting grup; the nearest is group.
    >>> check_options(MetaRegressor(), {"steps": 10})
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: MetaRegressor.fit has no setting steps; write
    MetaRegressor(steps=10).fit(...).
    """
    name, known = type(estimator).__name__, ColumnOptions.__annotations__
    for option, value in options.items():
        if option in known:
            continue
        if option in estimator.get_params():
            raise MetaLensError(
                f"{name}.fit has no setting {option}; write {name}({option}={value!r}).fit(...)."
            )
        own = [*list(signature(type(estimator).fit).parameters)[2:-1], *known]
        near = get_close_matches(option, own, n=1, cutoff=0.7)
        remedy = f"the nearest is {near[0]}" if near else f"there are {', '.join(own)}"
        raise MetaLensError(f"{name}.fit has no setting {option}; {remedy}.")


def as_new_table(data: Any, y: Any, groups: Any, reader: TableReader | ImageReader) -> Any:
    """Return new inputs, targets and groups as a table with the columns of training; see `as_table`."""
    if y is None:
        _refuse_groups(groups)
        return data
    if not isinstance(reader, TableReader):
        raise MetaLensError("y is for tables, and the model was fitted to images; give class folders alone.")
    columns = reader.columns
    if groups is not None and columns.task is None:
        raise MetaLensError("groups are for models that were fitted with some; leave them out.")
    frame = _inputs(data, partial(_new_array, reader=reader), reader.input_names)
    return _joined(frame, y, groups, {"y": columns.target, "groups": columns.task})


def as_new_rows(data: Any, reader: TableReader | ImageReader) -> Any:
    """Return rows to predict: a table or images as they are, and an array with the columns of training."""
    if _is_table(data) or not isinstance(reader, TableReader):
        return data
    return _new_array(data, reader)


def _refuse_groups(groups: Any) -> None:
    if groups is not None:
        raise MetaLensError("groups are for inputs and y apart; in one table, task names their column.")


def _is_table(data: Any) -> bool:
    if issparse(data):  # one of these is a mapping
        return False
    return hasattr(data, "columns") or isinstance(data, str | os.PathLike | Mapping)


def _checked(data: Any, missing: str, least: int = 1) -> np.ndarray:
    """Return an array of inputs, `(n, d)`, with at least so many rows."""
    is_finite: Any = True if missing == "refuse" else "allow-nan"
    return check_array(data, ensure_all_finite=is_finite, ensure_min_samples=least, input_name="X")


def _new_array(data: Any, reader: TableReader) -> np.ndarray:
    array, names = _checked(data, reader.columns.missing), reader.input_names
    if array.shape[1] != len(names):
        raise MetaLensError(
            f"X has {array.shape[1]} features, but it is expecting {len(names)} features as "
            f"input; give {', '.join(names)}."
        )
    return array


def _inputs(data: Any, array_of: Callable[[Any], np.ndarray], names: Sequence[str] = ()) -> pd.DataFrame:
    """Return inputs as a table; `names` are those of the columns of an array."""
    if hasattr(data, "columns"):
        return data
    if _is_table(data):
        raise MetaLensError(
            "y is for a data frame or an array of inputs; in a file, target names its column."
        )
    frame = frame_of_arrays({"x": array_of(data)})
    return frame.set_axis(list(names), axis=1) if names else frame


def _name(values: Any, otherwise: str) -> str:
    name = getattr(values, "name", None)
    return otherwise if name is None else str(name)


def _joined(frame: pd.DataFrame, y: Any, groups: Any, names: Mapping[str, str | None]) -> pd.DataFrame:
    """Return a table of inputs with the columns of targets and, if they are given, of groups."""
    if isinstance(y, str):
        raise MetaLensError(f"y holds the targets themselves, got {y!r}; name a column by target={y!r}.")
    columns = {"y": column_or_1d(y, warn=True)}
    assert_all_finite(columns["y"], input_name="y")
    if groups is not None:
        columns["groups"] = column_or_1d(groups)
    check_consistent_length(frame, *columns.values())
    for what in columns:
        if names[what] in frame.columns:
            raise MetaLensError(
                f"The inputs have a column {names[what]}, as {what} is called; leave it out, or rename one."
            )
    return frame.assign(**{str(names[what]): values for what, values in columns.items()})
