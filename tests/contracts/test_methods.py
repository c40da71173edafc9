"""Every combination of the catalogue keeps the contract of `metalens.testing`."""

import pytest
from combinations import MEANINGFUL, is_fast


def pytest_generate_tests(metafunc):
    """Leave out at once what the fast run deselects: to collect it would take seconds."""
    wants_full = "not full" not in metafunc.config.getoption("markexpr")
    parameters = []
    for case in MEANINGFUL:
        for check in case.checks():
            marks = [] if is_fast(case, check.name) else [pytest.mark.full]
            if wants_full or not marks:
                parameters.append(pytest.param(case, check, id=f"{case}-{check}", marks=marks))
    metafunc.parametrize(("case", "check"), parameters)


def test_contract(case, check):
    with case.advice():
        check()
