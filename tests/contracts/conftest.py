"""The contract suite goes through every combination of the catalogue."""

from __future__ import annotations

import pytest
import torch
from combinations import CASES, draws_by_shape


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, cases in CASES.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, cases, ids=map(str, cases))


@pytest.fixture(autouse=True)
def same_draws_for_every_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", draws_by_shape)
