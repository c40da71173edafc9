"""A plugin of pytest: `--max-seconds` fails a session in which a test not marked slow takes longer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

CPU_SECONDS = "cpu_seconds"  # of a test, among the properties of its report


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
