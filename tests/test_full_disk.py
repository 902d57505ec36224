"""A run with a full, read-only or failing disk continues and warns, and it fails if its end cannot be saved."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from saved_agents import CONDITIONAL, SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from agents.run.metrics import Statistics
from agents.storage.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from agents.trajectory import Trajectory
from system import files
from system.files import AppendedFile, write_whole

pytestmark = pytest.mark.usefixtures("process_settings")

TINY = [
    *(*SMALL, *CONDITIONAL, "runtime.slots_per_actor=6", "learner.unroll_length=4"),
    *("log_seconds=0", "checkpoint_seconds=0", "keep_checkpoints=1", "display=false"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "others").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(bytes(4096)):
            pass


def at_batches(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Calls each action before the statistics count the batch with its number, from 1."""
    update, batches = Statistics.update, []

    def acting(self: Statistics, batch: Trajectory) -> None:
        batches.append(None)
        actions.get(len(batches), lambda: None)()
        update(self, batch)

    monkeypatch.setattr(Statistics, "update", acting)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def shown(run: Path) -> list[int]:
    """Updates of the rows in TensorBoard."""
    board = EventAccumulator(str(run), size_guidance={"scalars": 0})
    board.Reload()
    return [int(event.value) for event in board.Scalars("speed/updates")]


def test_training_continues_while_the_disk_is_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    newest: list[str] = []

    def free() -> None:
        # Existing files are unchanged, and no partial file is left.
        newest.extend(os.listdir(run / "checkpoints"))
        (small_disk / "others").unlink()

    at_batches(monkeypatch, {5: lambda: fill(small_disk), 10: free})
    assert train.main([*TINY, f"run={run}", "total_frames=500"]) == 0
    # The newest checkpoint and the best one.
    assert "checkpoint-000000000004.pt" in newest and len(newest) <= 2
    written = rows(run)
    updates = [row["updates"] for row in written]
    assert updates[:4] == [1, 2, 3, 4] and updates[-1] == written[-1]["updates"] > 20
    missing = set(range(1, int(updates[-1]) + 1)) - set(updates)
    assert missing and missing <= {5, 6, 7, 8, 9}
    assert set(shown(run)) <= set(updates) and len(shown(run)) >= len(updates) - 1
    assert [row["saves_failed"] for row in written[:4]] == [0.0] * 4 and written[-1]["saves_failed"] >= 5
    out, err = capfd.readouterr()
    assert out.count("the checkpoint in") == 2 and "No space left on device" in out and "is written again." in out
    assert "Traceback" not in out + err
    assert load_checkpoint(find_checkpoint(run, print))["learner"]["counters"]["updates"] == updates[-1]


def test_a_run_that_cannot_be_saved_at_its_end_fails(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = small_disk / "run"
    at_batches(monkeypatch, {5: lambda: fill(small_disk)})
    assert train.main([*TINY, f"run={run}", "total_frames=300"]) == 1
    err = capfd.readouterr().err
    assert err.startswith(f"error: The end of run={run} was not saved (") and err.count("\n") == 1
    assert err.endswith(f"resume=true continues from {run}/checkpoints/checkpoint-000000000004.pt.\n")
    # A resume fails too while the disk is full.
    assert train.main([f"run={run}", "resume=true"]) == 2
    assert "cannot be written (No space left on device)" in capfd.readouterr().err
    (small_disk / "others").unlink()
    monkeypatch.undo()
    assert train.main([f"run={run}", "resume=true"]) == 0
    updates = [row["updates"] for row in rows(run)]
    assert updates == list(range(1, len(updates) + 1)) == shown(run)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EDQUOT, errno.EIO])
def test_no_failed_write_ends_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    def begin() -> None:
        monkeypatch.setattr(files.os, "fsync", refuse)
        monkeypatch.setattr(AppendedFile, "write", refuse)

    at_batches(monkeypatch, {4: begin})
    assert train.main([*TINY, f"run={tmp_path}", "total_frames=300"]) == 1
    out, err = capsys.readouterr()
    for what in ("the checkpoint", "the log", "result.json"):
        assert out.count(f"{what} in {tmp_path} cannot be written ({os.strerror(code)})") == 1
        assert what in err
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-000000000003.pt"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_record_is_appended_completely_or_not_at_all(small_disk: Path) -> None:
    file = AppendedFile(small_disk / "records")
    file.write(b"one\n")
    (small_disk / "others").write_bytes(bytes(3 * 2**20))
    with pytest.raises(OSError, match="No space left"):
        file.write(bytes(2 * 2**20))
    (small_disk / "others").unlink()
    file.write(b"two\n")
    file.close()
    assert (small_disk / "records").read_bytes() == b"one\ntwo\n"


def test_link_at_the_path_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".config.yaml.tmp").symlink_to(precious)
    write_whole(tmp_path / "config.yaml", "new\n")
    assert precious.read_text() == "precious" and (tmp_path / "config.yaml").read_text() == "new\n"
