"""What is raised for mistakes that the user can mend."""

# What it comes to where a file has another structure than was expected: damage, or another version.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


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
