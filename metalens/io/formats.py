"""Reading YAML and JSON, with errors in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from metalens.errors import MetaLensError


@cache
def _yaml_loader() -> Any:
    """Return a loader as of YAML 1.2, to which `on` and `yes` are text: only true and false are not."""
    import yaml  # not in the core

    class Loader(yaml.SafeLoader):
        pass

    of_bool = "tag:yaml.org,2002:bool"
    Loader.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != of_bool]
        for letter, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(of_bool, re.compile("(?:true|false|True|False|TRUE|FALSE)$"), list("tTfF"))
    return Loader


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file.

    Raises:
        MetaLensError: it is not YAML.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    import yaml

    text = path.read_text(encoding="utf-8")
    try:
        return yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of dates and numbers, and of depth
        raise MetaLensError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None


def read_json(path: Path, remedy: str, keys: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: of the file.
        remedy: what to do where it is damaged.
        keys: which names it must have, and the kind of each value, see `is_of`.

    Raises:
        MetaLensError: the file is missing or damaged, or holds something else.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "run.json")
    >>> _ = path.write_text('{"arms": [{"seed": 0}, {"seed": "one"}]}')
    >>> read_json(path, "run it again", {"arms": [{"seed": int}]})
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: ...run.json is damaged: arms missing or not as expected; run it again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        state = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise MetaLensError(f"{path} is {state} ({' '.join(str(error).split())}); {remedy}.") from error
    if not isinstance(content, dict):
        raise MetaLensError(f"{path} is damaged: it must hold a JSON object; {remedy}.")
    wrong = [name for name, kind in (keys or {}).items() if not is_of(content.get(name, ...), kind)]
    if wrong:
        raise MetaLensError(f"{path} is damaged: {', '.join(wrong)} missing or not as expected; {remedy}.")
    return content


def is_of(value: Any, kind: Any) -> bool:
    """Tell whether a plain value is what it should be.

    Args:
        value: of JSON.
        kind: its type; several, of which it has one; a list with the kind of each entry of a list; or the
            kinds of the values of an object by their names.

    >>> is_of({"arms": [{"seed": 0}]}, {"arms": [{"seed": int}]}), is_of(None, (str, [str]))
    (True, False)
    """
    match kind:
        case tuple():
            return any(is_of(value, one) for one in kind)
        case list():
            return isinstance(value, list) and all(is_of(entry, kind[0]) for entry in value)
        case Mapping():
            return isinstance(value, dict) and all(is_of(value.get(name, ...), kind[name]) for name in kind)
    return isinstance(value, kind)
