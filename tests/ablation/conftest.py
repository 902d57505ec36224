"""Shared fixtures of tests of ablations."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_analysis import analysis
from report_pages import probed

from ablation.report.report import write_report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two variants, two tasks and three seeds, with probes, a problem and a command; read only."""
    folder = tmp_path_factory.mktemp("report")
    write_report(probed(), analysis(probed()), folder)
    return folder
