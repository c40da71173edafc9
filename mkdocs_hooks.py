"""Make the pages of the reference from what the packages export, and check that they miss nothing."""

from __future__ import annotations

import ast
import importlib
import json
import pydoc
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
STUB = ROOT / "metalens" / "__init__.pyi"

_EXPORTS = re.compile(r"<!-- exports: (.+?) -->")
_PUBLIC = "<!-- public names -->"
_FROM_README = re.compile(r"<!-- README: (.+?) -->")
_BLOCK = re.compile(r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?", re.MULTILINE)
# From a prompt to the next empty line.
_DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
# paper/ is a sibling of docs/ in the repository, and a folder among its pages on the site.
# On the site, pages of paper/ stand beside those of docs/; in the repository the two folders are siblings.
_TO_PAPER = re.compile(r"\]\(\.\./((?:\.\./)*paper/)")
_TO_DOCS = re.compile(r"\]\(\.\./docs/")

_described: set[str] = set()


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages and figures of paper/, outside of the navigation, and the notebooks of examples/."""
    for path in sorted((ROOT / "paper").rglob("*")):
        if path.suffix in (".md", ".svg"):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        place = path.relative_to(ROOT)
        files.append(File.generated(config, place.as_posix(), abs_src_path=str(path)))
        files.append(File.generated(config, place.with_suffix(".md").as_posix(), content=_of_notebook(path)))
    _described.clear()
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Write the references that a page asks for, check them, and lead its links to the right folder."""
    markdown = _FROM_README.sub(lambda match: _of_readme(match[1]), markdown)
    markdown = _EXPORTS.sub(lambda match: _references(match[1].split()), markdown)
    markdown = markdown.replace(_PUBLIC, _public_names())
    for path, members in _BLOCK.findall(markdown):
        _check(path, re.findall(r"\w+", members), page)
        _described.add(path)
    if page.file.src_uri.startswith("paper/"):
        return _TO_DOCS.sub("](../", markdown)
    return _TO_PAPER.sub(r"](\1", markdown)


def on_env(env: Any, **_: Any) -> None:
    """Fail where a public name is on no page of the reference."""
    missing = sorted(f"metalens.{name}" for name in public_names() if f"metalens.{name}" not in _described)
    if missing:
        raise PluginError(f"No page of the reference describes {', '.join(missing)}.")


def public_names() -> dict[str, str]:
    """Return the names that `import metalens` offers beside packages, each with its module."""
    imports = [node for node in ast.parse(STUB.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {name.name: f"metalens.{node.module}" for node in imports if node.module for name in node.names}


def _exported(places: list[str]) -> dict[str, Any]:
    """Return what packages or modules export, by the shortest path that a user can import."""
    public = public_names()
    found = {}
    for place in places:
        for name, module in sorted(public.items(), key=lambda item: not item[1].endswith(".base")):
            if place in (module, module.rpartition(".")[0]):
                found[f"metalens.{name}"] = getattr(importlib.import_module(module), name)
        package = importlib.import_module(place)
        further = [name for name in getattr(package, "__all__", ()) if name not in public]
        found |= {f"{place}.{name}": getattr(package, name) for name in further}
    return found


def _references(places: list[str]) -> str:
    return "\n\n".join(_reference(path, value) for path, value in _exported(places).items())


def _reference(path: str, value: Any) -> str:
    """Refer to an object, and to those of its own functions that have a docstring."""
    own = vars(value).items() if isinstance(value, type) else ()
    calls = [(member, value) for member, value in own if isinstance(value, FunctionType | classmethod)]
    members = [member for member, value in calls if member[0] != "_" and value.__doc__]
    return f"::: {path}\n    options:\n      members: [{', '.join(members)}]"


def _of_readme(title: str) -> str:
    """Return a section of the README, with its links as on a page of docs/."""
    _, found, rest = (ROOT / "README.md").read_text("utf-8").partition(f"\n## {title}\n")
    if not found:
        raise PluginError(f"README.md has no section {title!r}.")
    return f"## {title}\n{rest.partition(chr(10) + '## ')[0]}".replace("](docs/", "](")


def _of_notebook(path: Path) -> str:
    """Return a notebook as a page, without outputs, that refers to the notebook itself."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    title, *rest = parts[0].split("\n\n", 1)
    here = f"A [notebook]({path.name}), examples/{path.name} in the repository, which the tests run."
    return "\n\n".join([title, here, *rest, *parts[1:]])


def _public_names() -> str:
    """Return a table of the public names by package."""
    rows: dict[str, list[str]] = {}
    for name, module in public_names().items():
        package = ".".join(module.split(".")[:2])
        rows.setdefault(package, []).append(f"[`{name}`][metalens.{name}]")
    lines = [f"| `{package}` | {' · '.join(names)} |" for package, names in sorted(rows.items())]
    return "\n".join(["| from | names |", "|---|---|", *lines])


def _check(path: str, members: list[str], page: Page) -> None:
    """Fail where a page names an object or a member that does not exist; mkdocstrings passes over members."""
    value = pydoc.locate(path)
    if value is None:
        raise PluginError(f"{page.file.src_uri} names {path}, which does not exist.")
    missing = [m for m in members if not hasattr(value, m) and m not in getattr(value, "__annotations__", ())]
    if missing:
        raise PluginError(f"{page.file.src_uri} names members of {path} that do not exist: {missing}.")


class Doctests(griffe.Extension):
    """Fence the doctests of docstrings, which else would be read as quotations and links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(
                lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", obj.docstring.value
            )
