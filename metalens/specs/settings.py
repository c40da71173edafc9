"""Settings with the types that a class asks for, whether they come from text, YAML, JSON or Python."""

import inspect
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from metalens.errors import MetaLensError

T = TypeVar("T")

_NUMBERS: tuple[Any, ...] = (int, float)
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null"}


def typed_settings(cls: type, settings: Mapping[str, Any], skip: Container[str] = ()) -> dict[str, Any]:
    """Convert settings to the types that the constructor of a class declares.

    Text becomes a number where one is declared, as YAML reads `1e-2` as text; the settings of a nested
    dataclass become that dataclass.

    Args:
        cls: a dataclass, or a class whose `__init__` has type hints.
        settings: some settings by name.
        skip: settings that cannot be set this way.

    Raises:
        MetaLensError: a setting is unknown, or its value has another type.

    >>> from metalens import MAML
    >>> typed_settings(MAML, {"inner_lr": "1e-2", "inner_steps": 3})
    {'inner_lr': 0.01, 'inner_steps': 3}
    """
    hints = {name: hint for name, hint in setting_types(cls).items() if name not in skip}
    typed = {}
    for name, value in settings.items():
        if name not in hints:
            known = ", ".join(sorted(hints))
            raise MetaLensError(f"{cls.__name__} has no setting {name!r}; it has {known}.")
        try:
            typed[name] = _converted(value, hints[name])
        except MetaLensError:
            raise
        except (ValueError, OverflowError):
            asked = "have a value, got null" if value is None else f"be {_words(hints[name])}, got {value!r}"
            raise MetaLensError(f"{cls.__name__}: {name} must {asked}.") from None
    return typed


def changed(instance: T, settings: Mapping[str, Any]) -> T:
    """Return a dataclass with other settings; a nested dataclass keeps those that are not given.

    Raises:
        MetaLensError: see `typed_settings`; or the dataclass refuses a value.

    >>> from metalens.experiments import RECIPES
    >>> recipe = changed(RECIPES["demo"], {"outer_lr": "1e-2", "machine": {"precision": "64-true"}})
    >>> recipe.outer_lr, recipe.machine.precision, recipe.machine.threads
    (0.01, '64-true', 1)
    """
    merged = dict(settings)
    for name, value in settings.items():
        if isinstance(value, Mapping) and is_dataclass(nested := getattr(instance, name, None)):
            merged[name] = changed(nested, value)
    typed: Any = instance
    return replace(typed, **typed_settings(type(instance), merged))


@cache
def setting_types(cls: type) -> dict[str, Any]:
    """Return the type of every setting of a class, including those of `**settings: Unpack[...]`.

    Where a class from elsewhere has no type hint, the default value tells the type; its `**settings` without
    one are those of its parent.

    >>> from metalens import Related
    >>> setting_types(Related)["neighbors"]
    <class 'int'>
    """
    hints = get_type_hints(cls if is_dataclass(cls) else cls.__init__)
    types: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and name not in hints:
            types = setting_types(_parent(cls)) | types
        elif parameter.kind is parameter.VAR_KEYWORD:
            for options in get_args(hints[name]):  # none of `**kwargs: Any`, as of a plain `nn.Module`
                types |= get_type_hints(options)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            types[name] = hints.get(name, _type_of(parameter.default))
    return types


def _parent(cls: type) -> type:
    """Return the class whose `__init__` follows that of a class."""
    own = next(number for number, each in enumerate(cls.__mro__) if "__init__" in vars(each))
    return cls.__mro__[own + 1]


def _type_of(default: Any) -> Any:
    """Return the type of a setting with this default."""
    if default is None or default is inspect.Parameter.empty:
        return Any
    return float if type(default) is int else type(default)  # a weight of 1 may become 0.3


def _converted(value: Any, hint: Any) -> Any:
    """Return a value converted to its type hint, or raise a `ValueError`."""
    kind: Any = get_origin(hint) or hint
    parts = get_args(hint)
    if kind in (Union, UnionType):
        for part in parts:
            with suppress(ValueError):
                return _converted(value, part)
        raise ValueError
    if kind in _NUMBERS and isinstance(value, str | int | kind) and not isinstance(value, bool):
        return kind(value)
    if kind is Literal and value in parts:
        return value
    if kind is bool and value in ("true", "false", "True", "False"):
        return value in ("true", "True")
    if kind is NoneType and value in ("null", "None"):
        return None
    if isinstance(value, Mapping) and is_dataclass(hint):
        cls = cast(Any, hint)
        return cls(**typed_settings(cls, value))
    if kind is list and isinstance(value, list):
        return [_converted(item, parts[0]) for item in value]
    if kind is Any:
        return value
    if kind in (*_NUMBERS, list, Literal) or not isinstance(value, kind):
        raise ValueError
    return value


def _words(hint: Any) -> str:
    """Return a type hint in words, such as "a whole number or null" or "adam or sgd"."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(map(_words, parts))
    if kind is Literal:
        return " or ".join(map(str, parts))
    if kind is list:
        return "a list"
    return _WORDS.get(kind, "settings by name" if is_dataclass(kind) else kind.__name__)
