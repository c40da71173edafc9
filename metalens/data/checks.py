"""Validation of settings and of user arrays."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
from torch import Tensor

from metalens.errors import MetaLensError, check_number

_CHUNK = 2**24  # numbers per chunk


def check_sizes(minimum: int = 1, /, **sizes: int | None) -> None:
    """Raise a `MetaLensError` if a size is below a minimum; `None` is not checked.

    >>> check_sizes(k_shot=0, n_train_tasks=None)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: k_shot must be at least 1, got 0.
    """
    for name, size in sizes.items():
        if size is None:
            continue
        check_number(name, size, whole=True)
        if size < minimum:
            raise MetaLensError(f"{name} must be at least {minimum}, got {size}.")


def check_callable(function: object) -> None:
    """Raise a `MetaLensError` unless tasks are to be made by a function."""
    if not callable(function):
        raise MetaLensError(
            f"Tasks need a function that makes them, got {type(function).__name__}; give one."
        )


def check_choices(**choices: tuple[str, Any]) -> None:
    """Raise a `MetaLensError` if the value of a setting is not in its `Literal`.

    >>> from typing import Literal
    >>> check_choices(color=("blue", Literal["red", "green"]))
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: color must be one of red, green, got 'blue'.
    """
    for name, (value, literal) in choices.items():
        if value not in get_args(literal):
            raise MetaLensError(f"{name} must be one of {', '.join(get_args(literal))}, got {value!r}.")


def as_array(values: Any, name: str) -> np.ndarray:
    """Return an array of numbers or text; entries of different shapes and objects are refused."""
    try:
        array = values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
    except ValueError as error:  # such as rows of different lengths
        raise MetaLensError(f"{name} is no array ({error}); give examples of one shape.") from error
    if array.dtype == object:
        if not all(isinstance(value, str) for value in array.flat):
            raise MetaLensError(f"{name} holds Python objects; give numbers or text alone.")
        array = array.astype(str)
    return array


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise a `MetaLensError` with the place of the first number that is not finite.

    >>> check_finite(np.array([1.0, np.nan]), "y")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: y[1] is nan, and must be finite; correct it or leave the example out.
    """
    if array.dtype.kind != "f":
        return
    for part, values in chunks(array, np.arange(len(array))):
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0]
            where = ", ".join(map(str, [part[place[0]], *place[1:]]))
            raise MetaLensError(
                f"{name}[{where}] is {values[tuple(place)]}, and must be finite; correct it or leave the "
                "example out."
            )


def warn_of_constants(y: np.ndarray, rows_of: Mapping[str, np.ndarray], name: str, split: str) -> None:
    """Warn of tasks of a split with constant targets `y`, and refuse them if all training tasks are constant.

    >>> warn_of_constants(np.ones(4), {"a": np.arange(2), "b": np.arange(2, 4)}, "dose", "train")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Within each training task, such as a, dose is the same in all rows; give
    tasks in which it differs.
    """
    constant = [task for task, rows in rows_of.items() if (y[rows] == y[rows[:1]]).all()]
    if split == "train" and len(constant) == len(rows_of):
        raise MetaLensError(
            f"Within each training task, such as {constant[0]}, {name} is the same in all rows; give "
            "tasks in which it differs."
        )
    if constant:
        warnings.warn(
            f"In {len(constant)} of the {len(rows_of)} tasks of the {split} split (such as {constant[0]}), "
            f"{name} is the same in all rows; their scores say little.",
            stacklevel=4,
        )


def chunks(array: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of an array and their values, a bounded number of values at a time."""
    n = max(1, _CHUNK * len(array) // max(1, array.size))
    for start in range(0, len(rows), n):
        part = rows[start : start + n]
        yield part, array[part]
