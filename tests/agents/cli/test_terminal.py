"""Output to standard output: lines are unchanged, control characters escaped."""

from __future__ import annotations

import io
import sys

import pytest
from rich.table import Table
from rich.text import Text

from ablation.report.tables import Data
from agents.cli.terminal import TextConsole, printable, warn


def test_lines_are_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"runs/:x:/[bold]a:b:c[/] {'long ' * 300}end"
    TextConsole().say(line)
    assert capsys.readouterr().out == f"{line}\n"


HOSTILE = "a\x1b[31mb\x1b]0;title\x07c\x9bd\rsecret\x7f\u202ee\ud800"
HARMLESS = r"a\x1b[31mb\x1b]0;title\x07c\x9bd\rsecret\x7f\u202ee\ud800"


def test_names_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of tasks, variants and folders may come from a stranger's file."""
    console = TextConsole()
    console.say(HOSTILE)
    table = Table(HOSTILE, title=Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    console.print(table)
    warn(f"error: {HOSTILE}")
    out, err = capsys.readouterr()
    # rich drops some control characters.
    assert out.count(r"a\x1b[31mb\x1b]0;title") == 4 and err == f"error: {HARMLESS}\n"
    for text in (out, err):
        assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    assert Data("x", ("name",), ((HOSTILE,),)).csv.splitlines()[1] == HARMLESS
    assert printable("größe\t实验\n") == "größe\t实验\n"


def test_text_on_an_ascii_terminal_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    TextConsole().say("größe \ud800")
    sys.stdout.flush()
    assert written.getvalue() == b"gr\\xf6\\xdfe \\ud800\n"
