"""The public settings of an object, and how it shows them."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import lru_cache, wraps
from os import PathLike, fspath
from typing import Any

import numpy as np
from torch import nn

_LONGEST = 100  # characters of a setting that are shown, and parts of a list


class ShowsSettings:
    """Base of objects that show the settings that they were made with, those that differ from the defaults.

    It keeps the texts of the arguments of the constructor, as learned values start from them: of numbers,
    words, functions, classes and objects with settings, and of lists, tuples and dictionaries of these.
    Networks, tensors, tables and other data are not shown.

    >>> class Wave(ShowsSettings):
    ...     def __init__(self, kind, *, size=1.0, phase=None):
    ...         self.energy = size**2
    >>> Wave("sine", size=2.0)
    Wave(kind='sine', size=2.0)
    """

    _made_with: dict[str, str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # pyright: ignore[reportAttributeAccessIssue]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings_text})"

    @property
    def settings_text(self) -> str:
        """The settings that differ from the defaults, as in a call."""
        return ", ".join(f"{name}={text}" for name, text in vars(self).get("_made_with", {}).items())


class SettingsModule(nn.Module, ShowsSettings):
    """Base of modules that show their settings in the tree that PyTorch prints."""

    def extra_repr(self) -> str:
        return self.settings_text


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that keeps the texts of its arguments; that of a base class adds nothing."""

    @wraps(init)
    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_made_with" not in vars(self):
            vars(self)["_made_with"] = _texts(init, (self, *args), kwargs)
        init(self, *args, **kwargs)

    return remember


def _texts(init: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    """Return the arguments that differ from their defaults, by name, as far as they have a short text."""
    signature = _signature(init)
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:  # which the constructor raises
        return {}
    texts = {}
    for name, value in list(given.items())[1:]:
        parameter = signature.parameters[name]
        further = value.items() if parameter.kind is parameter.VAR_KEYWORD else [(name, value)]
        for key, one in further:
            text = _text(one)
            if text is not None and text != _text(_default(type(args[0]), key)):
                texts[key] = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return texts


_signature = lru_cache(inspect.signature)


@lru_cache
def _default(cls: type, name: str) -> Any:
    """Return the default of a setting, which `**settings` pass on to the constructor of a parent class."""
    inits = (vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base))
    parameters = (_signature(init).parameters.get(name) for init in inits)
    return next((p.default for p in parameters if p is not None), inspect.Parameter.empty)


def _text(value: object) -> str | None:
    """Return a short text of a setting; `None` of data and of modules, which show themselves."""
    if isinstance(value, list | tuple | dict):
        if len(value) > _LONGEST:
            return None  # data
        parts = [_text(part) for part in (value.values() if isinstance(value, dict) else value)]
        if None in parts:
            return None
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key!r}: {part}' for key, part in zip(value, parts, strict=True))}}}"
        inside = ", ".join(map(str, parts))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(parts) == 1)})"
    if isinstance(value, nn.Module):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | ShowsSettings) or _is_plain(value):
        return repr(value)
    if isinstance(value, PathLike):
        return repr(fspath(value))
    return value.__name__ if inspect.isroutine(value) or inspect.isclass(value) else None


def settings_of(instance: object) -> dict[str, Any]:
    """Return the public attributes of an object by name, without the mode of a module."""
    return {name: value for name, value in vars(instance).items() if name[0] != "_" and name != "training"}


def plain_settings(instance: object) -> dict[str, str]:
    """Return the class of an object and the `repr` of its plain settings.

    Plain are numbers, strings and `None`, and lists, tuples and data classes of them.

    >>> from metalens import MAML, mlp
    >>> plain_settings(MAML(mlp(), inner_lr=0.1))["inner_lr"]
    '0.1'
    """
    found = {"class": type(instance).__name__}
    return found | {name: repr(value) for name, value in settings_of(instance).items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if is_dataclass(value):
        return all(_is_plain(getattr(value, field.name)) for field in fields(value))
    return value is None or isinstance(value, str | int | float)
