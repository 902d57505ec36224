"""What is said on standard output arrives as it is."""

from __future__ import annotations

import pytest

from agents.terminal import TextConsole


def test_lines_arrive_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"runs/:x:/[bold]a:b:c[/] {'long ' * 300}end"
    TextConsole().say(line)
    assert capsys.readouterr().out == f"{line}\n"
