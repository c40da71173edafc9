"""Every combination of the catalogue keeps the contract of `metalens.testing`."""

import pytest
from combinations import MEANINGFUL, is_fast


@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(
            case, check, id=f"{case}-{check}", marks=[] if is_fast(case, check.name) else pytest.mark.full
        )
        for case in MEANINGFUL
        for check in case.checks()
    ],
)
def test_contract(case, check):
    with case.advice():
        check()
