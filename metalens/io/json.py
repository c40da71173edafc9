"""Reading JSON files that may be damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalens.errors import MetaLensError


def read_json(path: Path, remedy: str, keys: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: of the file.
        remedy: what to do if it is damaged.
        keys: the names it must have, and the kind of each value, see `is_of`.

    Raises:
        MetaLensError: the file is missing or damaged, or has other content.

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
    """Return whether a JSON value has the expected kind.

    A kind is a type; a tuple of kinds, of which one fits; a list with the kind of all entries; or a dict
    of the kinds of an object's values by name.

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
