"""The tiers of the tests, and the guard that keeps the quick one quick; a pytest plugin.

Unmarked tests are the quick tier, which `python -m pytest` runs. The markers in TIERS name the others.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Generator
from multiprocessing import forkserver

import psutil
import pytest

TIERS = ("slow", "ray", "stress", "exhaustive")

LIMIT = 5.0
"""Processor seconds that the call of an unmarked test may take. Its fixtures are not counted: tests share them."""

SLACK = 2.0
"""The guard fails a test at LIMIT * SLACK. The same work takes up to twice the processor time on a slower or busy machine, and no test may
depend on that.
"""

MOST_LOAD = 4.0
"""Processes per core that want to run. With more of them the same work takes several times the processor time, so the guard is silent."""

BEGIN = pytest.StashKey[float]()
PROPERTY = "processor_seconds"


def processor_seconds() -> float:
    """User and system time so far of this process and of the children that it has waited for.

    Actors are children of the fork server, so the fork server and the children that it has waited for count too. A child that still
    runs does not count.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime + _fork_server_seconds()


def _fork_server_seconds() -> float:
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is None:
        return 0.0
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of the tier ray run in one process of pytest-xdist, on one cluster."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    begin, clock = processor_seconds(), time.monotonic()
    result = yield
    # A child that an earlier test started brings all of its time when it is waited for: more than the test can have used.
    seconds = min(processor_seconds() - begin, (time.monotonic() - clock) * (os.cpu_count() or 1))
    overloaded = os.getloadavg()[0] > MOST_LOAD * (os.cpu_count() or 1)
    if seconds > LIMIT * SLACK and not overloaded and not any(map(item.get_closest_marker, TIERS)):
        pytest.fail(
            f"The test took {seconds:.1f} s of processor time, an unmarked test may take {LIMIT:g} s: make it smaller or add "
            "@pytest.mark.slow.",
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[BEGIN] = processor_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    item.user_properties.append((PROPERTY, processor_seconds() - item.stash[BEGIN]))
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The processor time of all tests, fixtures included, and the tests that took most of it."""
    found = [
        (float(dict(report.user_properties)[PROPERTY]), report.nodeid)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and PROPERTY in dict(report.user_properties)
    ]
    terminalreporter.write_line(f"{sum(seconds for seconds, _ in found):.0f} s of processor time in {len(found)} tests")
    for seconds, name in sorted(found, reverse=True)[: terminalreporter.config.getoption("durations") or 0]:
        terminalreporter.write_line(f"{seconds:6.1f} s {name}")
