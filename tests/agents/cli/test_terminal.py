"""Output to standard output: lines are unchanged, control characters escaped."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.table import Table
from rich.text import Text

from ablation.report.tables import Data
from agents.cli.terminal import Terminal, TextConsole, printable, warn


def test_lines_are_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"runs/:x:/[bold]a:b:c[/] {'long ' * 300}end"
    TextConsole().say(line)
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize("command", [False, True])
def test_a_terminal_breaks_prose_between_words_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: bool
) -> None:
    for key, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "20"}.items():
        monkeypatch.setenv(key, value)
    line, path = "two or three words, then", f"/{'long' * 10}"
    console = TextConsole()
    (console.verbatim if command else console.say)(f"{line} {path}")
    expected = [f"{line} {path}"] if command else ["two or three words,", "then", path]
    assert [text.rstrip() for text in capsys.readouterr().out.splitlines()] == expected


def test_events_have_the_time_where_no_terminal_shows_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Terminal(live=True).say("event")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  event\n", capsys.readouterr().out)
    monkeypatch.setenv("FORCE_COLOR", "1")
    Terminal(live=False).say("event")
    assert capsys.readouterr().out == "event\n"


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
    TextConsole().print(Text("…"))
    sys.stdout.flush()
    assert written.getvalue() == b"gr\\xf6\\xdfe \\ud800\n~\n"
