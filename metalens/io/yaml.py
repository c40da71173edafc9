"""Reading YAML, as in version 1.2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from metalens.errors import MetaLensError


class _Yaml(yaml.SafeLoader):
    """As in YAML 1.2, only true and false are not texts: `on` and `yes` are."""


_BOOL = "tag:yaml.org,2002:bool"
_Yaml.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for letter, resolvers in _Yaml.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(_BOOL, re.compile("(?:true|false|True|False|TRUE|FALSE)$"), list("tTfF"))


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML file.

    Raises:
        MetaLensError: it is not YAML.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    text = path.read_text(encoding="utf-8")
    try:
        return yaml.load(text, _Yaml)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of dates and numbers, and of depth
        raise MetaLensError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
