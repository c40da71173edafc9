"""What a release says of itself is the same everywhere: version, public names, lock."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import metalens
from tools import public_names, sbom

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def pins(name):
    """The versions of a list of packages, by the name that package indices use."""
    found = re.findall(r"(?m)^([\w.-]+)(?:\[[\w,]+\])?==([^\s;\\]+)", (ROOT / name).read_text("utf-8"))
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_public_names_and_their_arguments_change_on_purpose_only():
    listed = public_names.FILE.read_text("utf-8")
    assert public_names.listed() == listed, "if a change is meant: make public-names, and CHANGELOG.md"


def test_the_bill_of_materials_names_what_the_package_asks_for():
    assert sbom.written() == sbom.FILE.read_text("utf-8"), "make sbom"
    components = json.loads(sbom.FILE.read_text("utf-8"))["components"]
    needed = {part["name"] for part in components if part["scope"] == "required"}
    assert needed == {re.match(r"[\w-]+", text)[0].lower() for text in PROJECT["project"]["dependencies"]}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"(?m)^## \[(\d+\.\d+\.\d+)\]", changes)
    assert citation["version"] == released[0] == metalens.__version__


def test_the_changelog_keeps_its_form():
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert changes.index("## [Unreleased]") < changes.index(f"## [{metalens.__version__}]")
    kinds = set(re.findall(r"(?m)^### (.+)$", changes))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_lock_has_the_versions_of_the_constraints_with_hashes():
    constraints, lock = pins("constraints.txt"), pins("requirements.lock")
    assert {name: constraints[name] for name in lock if name in constraints} == {
        name: version for name, version in lock.items() if name in constraints
    }
    assert constraints.keys() - lock.keys() <= {"pip", "uv"}
    text = (ROOT / "requirements.lock").read_text("utf-8")
    for entry in re.split(r"(?m)^(?=\w)", text)[1:]:
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text


@pytest.mark.parametrize("group", ["test", "lint", "docs", "release"])
def test_a_lowest_version_is_no_higher_than_that_of_the_constraints(group):
    constraints = pins("constraints.txt")
    for requirement in PROJECT["dependency-groups"][group]:
        name, lowest = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        pinned = constraints[re.sub(r"[-_.]+", "-", name).lower()]
        assert [int(part) for part in lowest.split(".")] <= [int(p) for p in re.findall(r"\d+", pinned)], name


def test_users_see_no_extras_for_work_on_the_library():
    extras = PROJECT["project"]["optional-dependencies"].keys()
    assert not extras & PROJECT["dependency-groups"].keys()
