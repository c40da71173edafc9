"""The public settings of an object."""

from dataclasses import fields, is_dataclass
from typing import Any


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
