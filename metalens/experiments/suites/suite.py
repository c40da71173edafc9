"""A suite: recipes with their settings, read from a YAML file."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from metalens.errors import MetaLensError
from metalens.experiments import Recipe, find_recipe
from metalens.experiments.arms import arms_of
from metalens.experiments.recipe import FIXED
from metalens.io.yaml import read_yaml
from metalens.specs.outside import file_name
from metalens.specs.settings import changed

BUILTIN = Path(__file__).parent / "builtin"
SUITES: dict[str, Path] = {path.stem: path for path in sorted(BUILTIN.glob("*.yaml"))}

_KEYS = {"description": str, "settings": dict, "sizes": dict, "entries": list}
_ENTRY_KEYS = {"recipe": str, "name": str, "settings": dict, "sizes": dict, "only": list}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """A recipe of a suite with its settings, and the name of its folder."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Suite:
    """Recipes that are run together, in this order, in a size, which is `None` if the suite has no sizes."""

    name: str
    description: str
    size: str | None
    entries: list[Entry]


def read_suite(name: str, size: str | None = None) -> Suite:
    """Return a suite by its name or from a file.

    Args:
        name: one of `SUITES`, or the path of a YAML file.
        size: one of the sizes of the suite, if it has any.

    Raises:
        MetaLensError: the suite or size is unknown, or the file is malformed.

    >>> suite = read_suite("regression", "smoke")
    >>> suite.entries[0].name, suite.entries[0].recipe.k_shot
    ('sinusoid-5shot', 5)
    """
    if name not in SUITES and Path(name).suffix not in (".yaml", ".yml"):
        raise MetaLensError(f"There is no suite {name!r}; name a .yaml file, or one of {', '.join(SUITES)}.")
    path = SUITES.get(name, Path(name))
    content = _checked(read_yaml(path), _KEYS, str(path))
    sizes = _sizes(content, str(path))
    if size not in (sizes or {None}):
        has = f"its sizes are {', '.join(sizes)}; choose one with --size" if sizes else "it has no sizes"
        raise MetaLensError(f"The suite {path.stem} cannot be run in size {size}: {has}.")
    entries = enumerate(content.get("entries", []), start=1)
    of_all = [_entry(entry, content, size, f"{path}, entry {number}") for number, entry in entries]
    found = [entry for entry in of_all if entry is not None]
    if not found:
        raise MetaLensError(f"{path} must have entries, a list of recipes, and has none.")
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MetaLensError(f"{path}: several entries are called {', '.join(twice)}; give each its own name.")
    return Suite(path.stem, content.get("description", ""), size, found)


def description_of(path: Path) -> str:
    """Return the description in the file of a suite."""
    return _checked(read_yaml(path), _KEYS, str(path)).get("description", "")


def _checked(content: Any, keys: dict[str, type], place: str) -> dict[str, Any]:
    """Return a mapping after checking its keys and the types of their values."""
    if not isinstance(content, dict):
        raise MetaLensError(f"{place} must have {', '.join(keys)}, one `name: value` a line.")
    for key, value in content.items():
        if key not in keys:
            raise MetaLensError(f"{place} has {key!r}; it can have {', '.join(keys)}.")
        if not isinstance(value, keys[key]):
            kinds = {str: "a text", dict: "settings, one `name: value` a line", list: "a list"}
            raise MetaLensError(f"{place}: {key} must be {kinds[keys[key]]}, got {value!r}.")
    return content


def _sizes(content: dict[str, Any], place: str) -> dict[Any, dict[str, Any]]:
    sizes = content.get("sizes", {})
    if not isinstance(sizes, dict) or not all(isinstance(settings, dict) for settings in sizes.values()):
        raise MetaLensError(f"{place}: sizes must have settings for each, such as `smoke: {{steps: 20}}`.")
    return sizes


def _entry(content: Any, suite: dict[str, Any], size: str | None, place: str) -> Entry | None:
    """Return an entry with its settings at a size; `None` if the size leaves it out."""
    content = _checked(content, _ENTRY_KEYS, place)
    if "recipe" not in content:
        raise MetaLensError(f"{place} must have a recipe.")
    sizes, only = _sizes(content, place), content.get("only", [size])
    if unknown := [str(name) for name in (*sizes, *only) if name not in suite.get("sizes", [None])]:
        raise MetaLensError(f"{place} names sizes that the suite does not have: {', '.join(unknown)}.")
    if size not in only:
        return None
    name = content.get("name", file_name(content["recipe"]))
    if not _NAME.fullmatch(name):
        raise MetaLensError(f"{place}: its name becomes a folder, so letters, digits and .-_, got {name!r}.")
    sources = [suite.get("settings", {}), content.get("settings", {})]
    sources += [suite.get("sizes", {}).get(size, {}), sizes.get(size, {})]
    settings = {str(name): value for source in sources for name, value in source.items()}
    try:
        recipe = _recipe(content["recipe"], settings)
        arms_of(recipe)
    except MetaLensError as error:
        raise MetaLensError(f"{place}, {content['recipe']}: {error}") from None
    return Entry(name, recipe)


def _recipe(name: str, settings: dict[str, Any]) -> Recipe:
    """Return a recipe with other settings, after checking them."""
    recipe = find_recipe(name)
    known = [field.name for field in fields(recipe) if field.name not in (*FIXED, "machine")]
    for setting, value in settings.items():
        if setting == "machine":
            raise MetaLensError("The machine is the suite's to decide; give --workers and --threads to it.")
        if setting not in known:
            raise MetaLensError(f"It has no setting {setting!r}; it has {', '.join(known)}.")
        if isinstance(getattr(recipe, setting), list) and not isinstance(value, list):
            raise MetaLensError(f"{setting} must be a list, such as [a, b], got {value!r}.")
    return changed(recipe, settings)
