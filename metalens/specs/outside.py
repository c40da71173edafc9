"""Methods and recipes from outside: by module and name, or of installed packages.

A name with a colon, `my_package.my_module:MyLearner`, is imported. Packages offer names of their own by entry
points of the group `metalens.plugins`:

    [project.entry-points."metalens.plugins"]
    MyLearner = "my_package.my_module:MyLearner"

Only the user names modules: what a file of a run or a model names is used if it has been imported.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from metalens.errors import MetaLensError

GROUP = "metalens.plugins"

T = TypeVar("T")


class NotImportedError(MetaLensError):
    """A file names a module that the user has not imported."""


_named_by_file: ContextVar[str | None] = ContextVar("named_by_file", default=None)


@cache
def plugins() -> dict[str, EntryPoint]:
    """Return the entry points of installed packages by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def file_name(name: str) -> str:
    """Return a name, of this library or with its module, as that of a file or folder.

    >>> file_name("my_module:recipe")
    'my_module.recipe'
    """
    return name.replace(":", ".")


@contextmanager
def named_by(file: str | Path) -> Iterator[None]:
    """Import no module for the names that come from a file."""
    token = _named_by_file.set(str(file))
    try:
        yield
    finally:
        _named_by_file.reset(token)


def imported(reference: str) -> Any:
    """Return what `"my_package.my_module:name"` refers to.

    The working directory is searched last.

    Raises:
        MetaLensError: the module cannot be imported or has no such name, or only a file names it.

    >>> imported("metalens.learners:MAML").__name__
    'MAML'
    """
    module, _, name = reference.partition(":")
    if module not in sys.modules and (file := _named_by_file.get()) is not None:
        raise NotImportedError(
            f"{file} names {reference!r}, and files do not decide what is imported; if you trust the module, "
            f"import {module} first, on the command line by `metalens --import {module} ...`."
        )
    found = import_user_module(module)
    if not hasattr(found, name):
        raise MetaLensError(f"The module {module} has no {name}; correct {reference!r}.")
    return getattr(found, name)


def import_user_module(name: str) -> Any:
    """Return a module; the working directory is searched last.

    Raises:
        MetaLensError: it cannot be imported.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return import_module(name)
    except Exception as error:  # of code from elsewhere: any
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        raise MetaLensError(f"The module {name} cannot be imported ({reason}); correct it.") from error


class Catalogue(dict[str, T], Generic[T]):
    """Things of one kind by name: those of this library, and on demand those from outside.

    As a dictionary it has the former, and what a user has added.

    Args:
        kind: what they are, in words.
        base: their base class.
        own: those of this library.
        of_classes: whether they are classes, not instances.
    """

    def __init__(self, kind: str, base: type, own: dict[str, T], *, of_classes: bool = True) -> None:
        super().__init__(own)
        self.kind, self.base, self.of_classes = kind, base, of_classes

    def is_known(self, name: str) -> bool:
        """Return whether `find` returns something."""
        try:
            self.find(name)
        except MetaLensError:
            return False
        return True

    def find(self, name: str) -> T:
        """Return what a name means; from outside only if nothing else has the name.

        Raises:
            MetaLensError: there is no such name, or it means something of another kind.
        """
        if name in self:
            return self[name]
        if ":" in name:
            found = imported(name)
        elif name in plugins():
            found = _loaded(plugins()[name])
        else:
            names = ", ".join([*self, *plugins()])
            raise MetaLensError(
                f"There is no {self.kind} {name!r}; choose from {names}, or give one of yours as "
                "my_module:its_name."
            )
        if not self._fits(found):
            raise MetaLensError(f"{name} is no {self.kind}, but {_in_words(found)}; name a {self.kind}.")
        return found

    def everything(self) -> dict[str, T]:
        """Return all by name, also those of installed packages; one that fails to import gives a warning."""
        found = dict(self)
        for name, point in plugins().items():
            try:
                plugin = _loaded(point)
            except MetaLensError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            if self._fits(plugin):
                found.setdefault(name, plugin)
        return found

    def _fits(self, found: Any) -> bool:
        if not self.of_classes:
            return isinstance(found, self.base)
        return isinstance(found, type) and issubclass(found, self.base)


@cache
def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # of code from elsewhere: any
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        package = point.dist.name if point.dist is not None else point.value
        raise MetaLensError(
            f"{point.name} of the package {package} cannot be imported ({reason}); update or remove it."
        ) from error


def _in_words(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
