"""The scripts in tools/ fit the package that they are about."""

from importlib import import_module

import pytest

from tools.mutation import PACKAGE, catalogued, named, own_tests


def test_every_named_mutant_is_a_change_of_a_file_with_tests():
    for path, line, before, after in named():
        assert before != after
        assert 1 <= line <= len(before.splitlines())
        first, *_ = own_tests(path)
        assert all((PACKAGE.parent / name).is_file() for name in first)


def test_the_methods_are_found_by_their_exports():
    assert {"MAML", "Ridge", "TRLearner"} <= set(catalogued())


@pytest.mark.parametrize(
    "name",
    [
        "communication",
        "correctness",
        "fuzz.__main__",
        "gpu",
        "precision",
        "public_names",
        "relations.__main__",
        "release",
        "render_poses",
        "sbom",
        "speed.__main__",
        "tables.__main__",
    ],
)
def test_every_script_can_be_imported(name):
    assert import_module(f"tools.{name}").__doc__
