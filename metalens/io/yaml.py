"""Reading YAML 1.2."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from metalens.errors import MetaLensError, extra


@cache
def _loader() -> Any:
    """Return a loader of YAML 1.2, in which `on` and `yes` are text, unlike true and false."""
    import yaml

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
        UnicodeDecodeError: it is not text.
    """
    with extra("cli"):
        import yaml
    text = path.read_text(encoding="utf-8")
    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of dates and numbers, and of depth
        raise MetaLensError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
