"""Foreign and damaged files are read without blocking, without filling the memory, and without a traceback."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saved_agents import CONDITIONAL, SMALL

import train
from ablation import run_files
from ablation.grid.scheduler import exit_reason
from ablation.run_files import newest_log_step, read_log
from agents.run.metrics import MetricsLog
from agents.run.trackers.tracker import TrackedRun, Trackers
from system.files import AppendedFile, open_ordinary, parse_json, read_bounded, read_json, read_lines, write_whole
from system.plain_data import PlainDataError, plain_copy

ROW = {"frames": 10, "seconds": 1.5, "updates": 1, "tasks/a/return": 0.5, "tasks/a/length": 3, "limited_by": "x"}
BAD_LINES = [
    *("", "[" * 100_000, "[[[[", '{"frames": 1e999, "seconds": 1, "updates": 1e999}', "null", "\0" * 100, '"\\ud800"'),
    *('{"frames": 1' + "0" * 400 + ', "seconds": 1, "updates": 1' + "0" * 400 + "}", '{"frames": [], "seconds": {}}'),
]


class Cell:
    """The attributes of an ablation cell that these tests need."""

    def __init__(self, folder: Path) -> None:
        self.folder: Any = folder


NO_FILES: list[Callable[[Path], object]] = [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")]


@pytest.mark.parametrize("make", NO_FILES)
def test_pipes_and_devices_do_not_block(tmp_path: Path, make: Callable[[Path], object]) -> None:
    for name in ("metrics.jsonl", "cell.log"):
        make(tmp_path / name)
    cell: Any = Cell(tmp_path)
    assert (
        read_log(tmp_path) == [] and newest_log_step(cell.folder).frames == 0 and exit_reason(cell, 3) == "exit code 3"
    )
    for read in (read_bounded, open_ordinary, AppendedFile, lambda path: list(read_lines(path))):
        with pytest.raises(OSError, match=r"no ordinary file|Is a directory|No such device"):
            read(tmp_path / "metrics.jsonl")


def test_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cell: Any = Cell(tmp_path)
    for bad in BAD_LINES:
        path.write_text(f"{json.dumps(ROW)}\n{bad}\n", encoding="utf-8")
        assert read_log(tmp_path) == [{"frames": 10, "seconds": 1.5, "tasks/a/return": 0.5}]
        assert newest_log_step(cell.folder).frames == 0
        log = MetricsLog(tmp_path, 5, Trackers((), TrackedRun(tmp_path, {}, 0), print))
        log.close()
        assert log.updates == 1 and path.read_text(encoding="utf-8") == json.dumps(ROW) + "\n"


def test_lone_surrogates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ('{"a": "\\ud800"}', '{"\\uDFFF": 1}', '{"a": [{"b": "x\\udc00\\ud83d"}]}', '{"a": "\\udc7f"}'):
        path.write_text(text, encoding="utf-8")
        assert read_json(path) is None
        with pytest.raises(ValueError, match="half of a character"):
            parse_json(text)
    # A surrogate pair; an undecodable byte of a file name; an escaped backslash.
    for value in ("\U0001f600", "runs/\udcff", "\\ud800", "\u00e9"):
        path.write_text(json.dumps({"a": value}), encoding="utf-8")
        assert read_json(path) == {"a": value} and plain_copy(value) == value
    for data in ("\ud800", {"\ud800": 1}, [{"a": ("x\udfff",)}]):
        with pytest.raises(PlainDataError, match="half of a character"):
            plain_copy(data)
    with pytest.raises(ValueError, match="nested"):
        parse_json("[" * 100_000)


def test_written_files_can_be_read_for_any_names(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "a \udcff \ud800 \u00e9")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "a \\udcff \\ud800 \u00e9"


def test_a_long_log_is_thinned_and_ends_with_its_newest_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "_MOST_ROWS", 8)
    for count in (0, 1, 15, 16, 17, 33, 100):
        lines = [json.dumps(ROW | {"frames": number}) + "\n" for number in range(count)]
        (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
        found = [row["frames"] for row in read_log(tmp_path)]
        assert min(8, count) <= len(found) <= 17 and found[-1:] == ([count - 1] if count else [])
        steps = {later - earlier for earlier, later in itertools.pairwise(found[:-1])}
        assert len(steps) <= 1 and found[:1] == ([0] if count else [])


def test_a_huge_hole_is_read_past(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    with path.open("ab") as file:
        file.truncate(2**29)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(ROW | {"frames": 20}).encode() + b"\n")
    assert [row["frames"] for row in read_log(tmp_path)] == [10, 20]
    cell: Any = Cell(tmp_path)
    assert newest_log_step(cell.folder).frames == 20
    with pytest.raises(OSError, match="larger than"):
        read_bounded(path)


def test_the_last_lines_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\nsecond\nthird", encoding="utf-8")
    assert list(read_lines(path, last=9)) == ["third"]
    assert list(read_lines(path, last=100)) == list(read_lines(path)) == ["first", "second", "third"]
    assert list(read_lines(path, 6)) == ["first", "third"]


def test_a_run_whose_log_is_a_pipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], process_settings: None
) -> None:
    tiny = [*SMALL, *CONDITIONAL, "runtime.slots_per_actor=4", "learner.unroll_length=5", "display=false"]
    assert train.main([*tiny, f"run={tmp_path}", "total_frames=50"]) == 0
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    capsys.readouterr()
    assert train.main([f"run={tmp_path}", "resume=true", "total_frames=100"]) == 2
    errors = capsys.readouterr().err
    assert "cannot be written" in errors and errors.count("\n") == 1
