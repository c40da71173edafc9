"""Makes the page of methods: what the packages export, and doctests shown as code."""

from __future__ import annotations

import re
from types import FunctionType
from typing import Any

import griffe

from metalens.specs.calls import LEARNERS, NETWORKS, REGULARIZERS, SAMPLERS

LISTS = {"learners": LEARNERS, "regularizers": REGULARIZERS, "samplers": SAMPLERS, "networks": NETWORKS}

# From a prompt to the next empty line.
_DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `<!-- learners -->` and its like by one reference for each method."""
    for title, methods in LISTS.items():
        references = "\n\n".join(_reference(name, method) for name, method in methods.items())
        markdown = markdown.replace(f"<!-- {title} -->", references)
    return markdown


def _reference(name: str, method: Any) -> str:
    """Refer to a method, and to what it offers beside the common interface: what has a text of its own."""
    own = vars(method).items() if isinstance(method, type) else ()
    calls = [(member, value) for member, value in own if isinstance(value, FunctionType | classmethod)]
    members = [member for member, value in calls if member[0] != "_" and value.__doc__]
    return f"::: metalens.{name}\n    options:\n      members: [{', '.join(members)}]"


class Doctests(griffe.Extension):
    """Fence the doctests of docstrings, which else would be read as quotations and links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(
                lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", obj.docstring.value
            )
