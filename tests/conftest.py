"""Shared by all tests: one thread per process (the tests run in parallel), and real data where present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from combinations import CASES, MEANINGFUL

torch.set_num_threads(1)

DATA = Path(os.environ.get("METALENS_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()


@pytest.fixture
def data_folder() -> Path:
    """The folder with real data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data in {DATA}; set METALENS_DATA")
    return DATA


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the size of the contract suite, if it ran."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if not any("contracts/" in getattr(report, "nodeid", "") for report in reports):
        return
    tested, refused = len(MEANINGFUL), len(CASES["refused_case"])
    terminalreporter.write_line(
        f"Contract suite: {tested} combinations of learner, regularizer, network and kind of task tested, "
        f"{refused} without a meaning asserted to be refused."
    )
