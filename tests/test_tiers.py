"""The tiers: which tests a command selects, and the guard of the quick tier."""

from __future__ import annotations

import pytest
import tiers

TESTS = """
import time
import pytest

def busy():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass

def test_quick():
    pass

def test_unmarked():
    busy()

@pytest.mark.slow
def test_slow():
    busy()

@pytest.mark.ray
def test_ray():
    busy()

@pytest.mark.stress
def test_stress():
    busy()

@pytest.mark.exhaustive
def test_exhaustive():
    busy()
"""


@pytest.mark.parametrize(
    ("arguments", "passed", "failed"),
    [
        ([], ["test_quick"], ["test_unmarked"]),
        (["-m", "slow"], ["test_slow"], []),
        (["-m", "ray"], ["test_ray"], []),
        (["-m", "stress"], ["test_stress"], []),
        (["-m", "exhaustive"], ["test_exhaustive"], []),
        (
            ["-m", ""],
            ["test_quick", "test_slow", "test_ray", "test_stress", "test_exhaustive"],
            ["test_unmarked"],
        ),
    ],
)
def test_a_marker_selects_its_tier_and_the_guard_fails_unmarked_tests_alone(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    passed: list[str],
    failed: list[str],
) -> None:
    pytester.makepyfile(TESTS)
    options = quick_options(pytester)
    with monkeypatch.context() as changed:
        changed.setattr(tiers, "LIMIT", 0.1)
        changed.setattr(tiers, "MOST_LOAD", float("inf"))
        reports = pytester.inline_run(*options, *arguments, plugins=[tiers]).listoutcomes()
    succeeded, _, wrong = ([report.nodeid.split("::")[1] for report in kind] for kind in reports)
    assert (succeeded, wrong) == (passed, failed)
    assert all("add @pytest.mark.slow" in str(report.longrepr) for report in reports[2])


def quick_options(pytester: pytest.Pytester) -> list[str]:
    """`-m ...` and the markers as pyproject.toml has them, without the processes of pytest-xdist."""
    config = pytester._request.config
    options = list(config.getini("addopts"))
    pytester.makeini("[pytest]\nmarkers =\n" + "".join(f"    {line}\n" for line in config.getini("markers")))
    return ["-p", "no:xdist", "--strict-markers", *options[options.index("-m") :]]
