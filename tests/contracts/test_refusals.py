"""Combinations without a meaning are refused with a reason."""

import pytest

from metalens import MetaLensError


def test_refused(refused_case):
    with pytest.raises(MetaLensError, match=refused_case.refusal):
        refused_case.objective()(refused_case.tasks())
