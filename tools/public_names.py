"""The public names and their arguments as text, for a test that notices every change of them.

python -m tools.public_names    # writes tests/public_names.txt
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "tests" / "public_names.txt"
_EXPORTS = re.compile(r"<!-- exports: (.+?) -->")


def main() -> None:
    """Write the file."""
    FILE.write_text(listed(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")


def listed() -> str:
    """Return a line for each public name, and for the methods of public classes and of their hidden bases."""
    names = public()
    shown = [value for value in names.values() if inspect.isclass(value)]
    lines: list[str] = []
    for path, value in sorted(names.items()):
        lines.append(path + arguments(value) if callable(value) else path)
        if inspect.isclass(value):
            hidden = [base for base in value.__mro__[1:] if base not in shown and _is_ours(base)]
            members = {
                name: member for base in (*reversed(hidden), value) for name, member in vars(base).items()
            }
            lines += [f"{path}.{name}{text}" for name, text in sorted(_shown(members).items())]
    return "\n".join(lines) + "\n"


def public() -> dict[str, Any]:
    """Return what `metalens` and the packages on the pages of the reference export, by path."""
    found: dict[str, Any] = {}
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    named = [match[1].split() for page in pages for match in _EXPORTS.finditer(page.read_text("utf-8"))]
    for name in ["metalens", *(module for modules in named for module in modules)]:
        module = import_module(name)
        for export in getattr(module, "__all__", ()):
            value = getattr(module, export)
            if not inspect.ismodule(value) and value not in found.values():
                found[f"{name}.{export}"] = value
    return found


def _is_ours(base: type) -> bool:
    return base.__module__.partition(".")[0] == "metalens"


def _shown(members: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments of public methods, and nothing for properties, by name."""
    found = {}
    for name, member in members.items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_"):
            continue
        if inspect.isfunction(plain):
            found[name] = arguments(plain)
        elif isinstance(plain, property | cached_property):
            found[name] = ""
    return found


def arguments(value: Any) -> str:
    """Return the arguments of a function or class with their defaults, without annotations.

    >>> arguments(arguments)
    '(value)'
    """
    is_error = inspect.isclass(value) and issubclass(value, BaseException)
    if is_error or not (inspect.isclass(value) or inspect.isfunction(value)):
        return ""
    signature = inspect.signature(value)
    parameters = [
        parameter.replace(annotation=parameter.empty, default=_named(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


class _Name:
    """Shows itself as a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def _named(default: Any) -> Any:
    """Return a default that has the same text in every process."""
    is_object = callable(default) and default is not inspect.Parameter.empty
    return _Name(getattr(default, "__name__", type(default).__name__)) if is_object else default


if __name__ == "__main__":
    main()
