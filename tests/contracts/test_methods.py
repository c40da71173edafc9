"""Every combination of the catalogue keeps the contract of `metalens.testing`."""

import pytest
from combinations import MEANINGFUL, is_fast


def pytest_generate_tests(metafunc):
    """Leave out at once what the fast run deselects: to collect it would take seconds."""
    no_full = "not full" in metafunc.config.getoption("markexpr")
    found = [(case, check) for case in MEANINGFUL for check in case.checks()]
    parameters = [
        pytest.param(
            case, check, id=f"{case}-{check}", marks=[] if is_fast(case, check.name) else pytest.mark.full
        )
        for case, check in found
        if is_fast(case, check.name) or not no_full
    ]
    metafunc.parametrize(("case", "check"), parameters)


def test_contract(case, check):
    with case.advice():
        check()
