"""Errors for mistakes that the user can fix."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, get_args

# What reading a file raises if it is damaged, or of another version.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class MetaLensError(ValueError):
    """A mistake in the input: one sentence with what is wrong, where, the value and the remedy.

    The command line prints the message without a traceback.

    >>> raise MetaLensError("n_way must be at least 2, got 0.")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: n_way must be at least 2, got 0.
    """


class DivergenceError(MetaLensError):
    """The loss of a training is not finite; training ended there."""


@contextmanager
def reraise_as(prefix: str, remedy: str, catch: tuple[type[Exception], ...] = MALFORMED) -> Iterator[None]:
    """Reraise exceptions of the block as a `MetaLensError`: "prefix (reason); remedy."

    >>> with reraise_as("The file is damaged", "download it again"):
    ...     {}["weights"]
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: The file is damaged (KeyError: 'weights'); download it again.
    """
    try:
        yield
    except MetaLensError:
        raise
    except catch as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise MetaLensError(f"{prefix} ({reason}); {remedy}.") from error


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Raise a `MetaLensError` that names the extra to install if an import in the block fails.

    >>> with extra("chem"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: no_such_package is not installed; run pip install 'metalens[chem]'.
    """
    try:
        yield
    except ImportError as error:
        raise MetaLensError(f"{error.name} is not installed; run pip install 'metalens[{name}]'.") from error


def check_type(value: object, kind: type, name: str, remedy: str) -> None:
    """Raise `MetaLensError` unless a value is of a class.

    >>> check_type(dict, list, "tasks", "give a list")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: tasks must be of type list, got the class dict; give a list.
    """
    if not isinstance(value, kind):
        found = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise MetaLensError(f"{name} must be of type {kind.__name__}, got {found}; {remedy}.")


def check_number(name: str, value: Any, *, whole: bool = False) -> None:
    """Raise `MetaLensError` unless a value is a number or, if asked for, a whole one.

    >>> check_number("steps", 2.5, whole=True)
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: steps must be a whole number, got 2.5.
    """
    if not isinstance(value, Integral if whole else Real):
        raise MetaLensError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}.")


def check_positive(owner: object, **values: float | None) -> None:
    """Raise `MetaLensError` where a setting of an object is not above 0 and finite; `None` is allowed."""
    for name, value in values.items():
        if value is None:
            continue
        check_number(f"{type(owner).__name__}: {name}", value)
        if not 0 < value < math.inf:
            raise MetaLensError(f"{type(owner).__name__}: {name} must be above 0 and finite, got {value}.")


def check_nonnegative(owner: object, **values: float) -> None:
    """Raise `MetaLensError` if a setting of an object is negative or not finite."""
    for name, value in values.items():
        check_number(f"{type(owner).__name__}: {name}", value)
        if not 0 <= value < math.inf:
            raise MetaLensError(f"{type(owner).__name__}: {name} must be 0 or more and finite, got {value}.")


def check_counts(owner: object, **values: int | None) -> None:
    """Raise `MetaLensError` if a setting of an object is below 1; `None` is allowed."""
    for name, value in values.items():
        if value is None:
            continue
        check_number(f"{type(owner).__name__}: {name}", value, whole=True)
        if value < 1:
            raise MetaLensError(f"{type(owner).__name__}: {name} must be at least 1, got {value}.")


def check_choice(owner: object, name: str, value: str, choices: object) -> None:
    """Raise `MetaLensError` if a setting of an object is not among the choices of a `Literal`."""
    if value not in get_args(choices):
        raise MetaLensError(
            f"{type(owner).__name__}: {name} must be one of {', '.join(get_args(choices))}, got {value!r}."
        )
