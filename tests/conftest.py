"""Shared by all tests: one thread per process (the tests run in parallel), and real data where present."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from combinations import MEANINGFUL, REFUSED

from metalens.cli import main

torch.set_num_threads(1)

DATA = Path(os.environ.get("METALENS_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
CPU_SECONDS = "cpu_seconds"  # of a test, among the properties of its report


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--max-seconds", type=float, help="fail if a test that is not marked slow takes longer")


# Processor time, of the test and of the processes that it starts and waits for: on a loaded machine a test
# waits longer, but computes as much. Fixtures are not counted: the first test that asks for one pays for all.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    begin = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        if not item.get_closest_marker("slow") and not item.get_closest_marker("full"):
            item.user_properties.append((CPU_SECONDS, sum(os.times()[:4]) - begin))


class Limit:
    """Fails the session where a test takes longer than `--max-seconds`; with xdist, in the main process."""

    def __init__(self, max_seconds: float) -> None:
        self.max_seconds, self.too_slow = max_seconds, []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = dict(report.user_properties).get(CPU_SECONDS, 0.0)
        if report.when == "call" and seconds > self.max_seconds:
            self.too_slow.append(f"{seconds:.1f} s {report.nodeid}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.too_slow and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.too_slow:
            terminalreporter.write_line(
                f"Over {self.max_seconds:g} s of processor time: {line}; make it faster or mark it slow."
            )


def pytest_configure(config: pytest.Config) -> None:
    max_seconds = config.getoption("--max-seconds")
    if max_seconds is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Limit(max_seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the size of the contract suite, if it ran."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if not any("contracts/" in getattr(report, "nodeid", "") for report in reports):
        return
    terminalreporter.write_line(
        f"Contract suite: {len(MEANINGFUL)} combinations of learner, regularizer, network and kind of task "
        f"tested, {len(REFUSED)} without a meaning asserted to be refused."
    )
