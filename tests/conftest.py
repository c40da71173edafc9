"""Shared by all tests: one thread per process (the tests run in parallel), and real data where present."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from combinations import MEANINGFUL, REFUSED
from small_timm import stand_in_for_timm

from metalens.cli import main

pytest_plugins = ["limit", "pytester"]
torch.set_num_threads(1)

DATA = Path(os.environ.get("METALENS_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()

# Imported beforehand where time is limited: the first test that needs them would pay for all.
HEAVY = (
    "lightning_fabric",
    "matplotlib.figure",
    "pandas",
    "rich.progress",
    "scipy.cluster.hierarchy",
    "scipy.stats",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "torch._dynamo",
    "torch._functorch.aot_autograd",
)


def pytest_sessionstart(session: pytest.Session) -> None:
    has_workers = session.config.getoption("numprocesses", None) and not hasattr(
        session.config, "workerinput"
    )
    if session.config.getoption("--max-seconds") is not None and not has_workers:
        for name in HEAVY:
            importlib.import_module(name)


@pytest.fixture(scope="session", autouse=True)
def _no_folds() -> Iterator[None]:
    """Divide few tasks into splits, as many, which takes a fraction of the time, but in some tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metalens.estimators.cross_fitting.MAX_TASKS", 0)
        yield


@pytest.fixture(scope="module")
def few_draws(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw few held-out tasks, with the numbers of support rows in `SHOTS` of the module beside the usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metalens.estimators.draws.MIN_DRAWS", 3)
        patch.setattr("metalens.estimators.draws.SHOTS", request.module.SHOTS)
        yield


@pytest.fixture
def data_folder() -> Path:
    """The folder with real data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data in {DATA}; set METALENS_DATA")
    return DATA


@pytest.fixture
def metalens_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., CompletedProcess[str]]:
    """The command line within this process, where a process of its own would only cost seconds."""

    def call(*words: str) -> CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
        on_term, status = signal.getsignal(signal.SIGTERM), 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # they are notes for the user, as in a process of its own
            try:
                main(words)
            except SystemExit as ended:
                status = int(ended.code or 0)
            finally:
                signal.signal(signal.SIGTERM, on_term)
        return CompletedProcess(words, status, *capsys.readouterr())

    return call


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the size of the contract suite, if it ran."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if not any("contracts/" in getattr(report, "nodeid", "") for report in reports):
        return
    terminalreporter.write_line(
        f"Contract suite: {len(MEANINGFUL)} combinations of learner, regularizer, network and kind of task "
        f"tested, {len(REFUSED)} without a meaning asserted to be refused."
    )


@pytest.fixture
def stand_in(monkeypatch):
    """A stand-in for timm, imported in its place."""
    module = stand_in_for_timm()
    monkeypatch.setitem(sys.modules, "timm", module)
    return module
