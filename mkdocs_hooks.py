"""Fills the page of methods with what the packages export: no list is kept by hand."""

from __future__ import annotations

from typing import Any

from metalens.benchmarks.calls import BACKBONES, LEARNERS, REGULARIZERS

LISTS = {"learners": LEARNERS, "regularizers": REGULARIZERS, "networks": BACKBONES}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `<!-- learners -->` and its like by one reference for each method."""
    for title, methods in LISTS.items():
        references = "\n\n".join(_reference(name, method) for name, method in methods.items())
        markdown = markdown.replace(f"<!-- {title} -->", references)
    return markdown


def _reference(name: str, method: Any) -> str:
    """Refer to a method, and to what it offers beside the common interface: what has a text of its own."""
    public = vars(method).items() if isinstance(method, type) else ()
    members = [member for member, value in public if member[0] != "_" and getattr(value, "__doc__", None)]
    return f"::: metalens.{name}\n    options:\n      members: [{', '.join(members)}]"
