"""The software bill of materials that the wheel holds (PEP 770), in the CycloneDX format.

    python -m tools.sbom    # writes sbom.cdx.json

The wheel bundles no foreign code, so the list has MetaLens itself and what it asks for: packages that it
needs and, as optional, those of its extras.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from metalens import __version__

ROOT = Path(__file__).parents[1]
FILE = ROOT / "sbom.cdx.json"
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?(.*)")


def main() -> None:
    """Write the file."""
    FILE.write_text(written(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")


def written() -> str:
    """Return the bill as JSON."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    components: dict[str, dict[str, Any]] = {}
    for requirement in project["dependencies"]:
        add(components, requirement, "required")
    for extra, requirements in sorted(project["optional-dependencies"].items()):
        for requirement in requirements:
            if not requirement.startswith(f"{project['name']}["):  # an extra of several others
                add(components, requirement, "optional", extra)
    own = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{project['name']}@{__version__}",
        "name": project["name"],
        "version": __version__,
        "description": project["description"],
        "licenses": [{"license": {"id": project["license"]}}],
        "purl": f"pkg:pypi/{project['name']}@{__version__}",
    }
    needed = sorted(ref for ref, one in components.items() if one["scope"] == "required")
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": [components[ref] for ref in sorted(components)],
        "dependencies": [{"ref": own["bom-ref"], "dependsOn": needed}],
    }
    return json.dumps(bill, indent=2) + "\n"


def add(
    components: dict[str, dict[str, Any]], requirement: str, scope: str, extra: str | None = None
) -> None:
    """Add a package that is asked for, unless it is needed without the extra, too.

    >>> components = {}
    >>> add(components, "PyYAML>=6", "optional", "cli")
    >>> components["pkg:pypi/pyyaml"]["properties"]
    [{'name': 'metalens:versions', 'value': '>=6'}, {'name': 'metalens:extra', 'value': 'cli'}]
    """
    found = _REQUIREMENT.fullmatch(requirement)
    assert found is not None, requirement
    name = re.sub(r"[-_.]+", "-", found[1]).lower()
    ref = f"pkg:pypi/{name}"
    properties = [("versions", found[2].strip()), *([("extra", extra)] if extra else [])]
    listed = [{"name": f"metalens:{what}", "value": value} for what, value in properties]
    if ref in components:
        components[ref]["properties"] += [one for one in listed if one not in components[ref]["properties"]]
        return
    components[ref] = {
        "type": "library", "bom-ref": ref, "name": name, "purl": ref, "scope": scope, "properties": listed,
    }  # fmt: skip


if __name__ == "__main__":
    main()
