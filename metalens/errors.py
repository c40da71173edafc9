"""What is raised for mistakes that the user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# What it comes to where a file has another structure than was expected: damage, or another version.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class MetaLensError(ValueError):
    """A mistake in what the library was given: says what, where, what was got and what to do.

    It derives from `ValueError`, so ordinary `except ValueError` code catches it; the command line
    prints its message as one sentence, without a traceback.

    >>> raise MetaLensError("n_way must be at least 2, got 0.")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: n_way must be at least 2, got 0.
    """


class DivergenceError(MetaLensError):
    """Training came to a loss that is not finite, and ended there.

    >>> issubclass(DivergenceError, MetaLensError)
    True
    """


@contextmanager
def reraise_as(said: str, remedy: str, kinds: tuple[type[Exception], ...] = MALFORMED) -> Iterator[None]:
    """Say in one sentence that something is damaged where the block fails for what is in it.

    Args:
        said: the beginning of the sentence, before the reason.
        remedy: what to do.
        kinds: what damage shows as.

    Raises:
        MetaLensError: the block failed.

    >>> with reraise_as("The file is damaged", "get it again"):
    ...     {}["weights"]
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: The file is damaged (KeyError: 'weights'); get it again.
    """
    try:
        yield
    except MetaLensError:
        raise
    except kinds as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise MetaLensError(f"{said} ({reason}); {remedy}.") from error


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
