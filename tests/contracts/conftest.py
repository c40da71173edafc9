"""The contract suite goes through every combination of the catalogue."""

from __future__ import annotations

import pytest
import torch
from combinations import CASES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, cases in CASES.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, cases, ids=map(str, cases))


@pytest.fixture(autouse=True)
def same_draws_for_every_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let draws inside the map over tasks depend on their shape alone, else no two plans could agree."""

    def rand_like(tensor: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(tensor.numel())
        return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)

    monkeypatch.setattr(torch, "rand_like", rand_like)
