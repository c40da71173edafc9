"""Combinations without a meaning are refused with a reason."""

import pytest
from combinations import REFUSED

from metalens import MetaLensError


@pytest.mark.parametrize(
    "case",
    [  # nearly all are refused before any network is run
        pytest.param(case, id=str(case), marks=[] if case.network in ("mlp", "shared") else pytest.mark.full)
        for case in REFUSED
    ],
)
def test_refused(case):
    with pytest.raises(MetaLensError, match=case.refusal):
        case.objective()(case.tasks)
