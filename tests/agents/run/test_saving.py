"""Kept checkpoints, the best checkpoint, and failed writes."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.run import checkpoint_saver
from agents.run.checkpoint_saver import SaveError, Saver
from agents.run.metrics import WINDOW, Performance, Statistics
from agents.storage.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from envs.spec import Score
from system.errors import InputError

PLAIN: dict[str, Any] = {
    "config": {},
    "env": {},
    "learner": {},
    "positions": {},
    "statistics": {},
    "rng": torch.zeros(1, dtype=torch.uint8),
    "seconds": 0.0,
    "versions": {},
}


def make_saver(run: Path, said: list[str] | None = None, **options: Any) -> Saver:
    settings: dict[str, Any] = {"keep": 2, "milestone_frames": 0, "saved": None} | options
    return Saver(run, say=([] if said is None else said).append, **settings)


def save(saver: Saver, updates: int, value: float = math.nan, episodes: int = WINDOW) -> None:
    performance = None if math.isnan(value) else Performance("success", value, episodes)
    saver.save(PLAIN, updates=updates, frames=10 * updates, performance=performance)


def numbers(run: Path) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in list_checkpoints(run / "checkpoints")]


def best(run: Path) -> int:
    return int(find_checkpoint(run / "best", print).stem.split("-")[1])


def test_best_checkpoint_is_kept_and_found_by_name(tmp_path: Path) -> None:
    saver = make_saver(tmp_path)
    save(saver, 1)
    with pytest.raises(InputError, match="has no best checkpoint") as caught:
        find_checkpoint(tmp_path / "best", print)
    assert "\n" not in str(caught.value)
    # A value over one episode per task does not beat a value over a hundred.
    save(saver, 2, 1.0, episodes=1)
    assert best(tmp_path) == 2
    for updates, value in ((3, 0.2), (4, 0.7), (5, 0.7), (6, 0.6), (7, math.nan), (8, 0.1)):
        save(saver, updates, value)
    assert numbers(tmp_path) == [4, 7, 8] and best(tmp_path) == 4
    # A resumed run keeps it, with a larger keep_checkpoints too.
    saver = make_saver(tmp_path, keep=1, saved=load_checkpoint(find_checkpoint(tmp_path, print)))
    save(saver, 9, 0.5)
    assert numbers(tmp_path) == [4, 9]
    save(saver, 10, 0.8)
    assert numbers(tmp_path) == [10] and best(tmp_path) == 10


def test_the_best_evaluation_decides_as_soon_as_there_is_one(tmp_path: Path) -> None:
    def consider(updates: int, value: float) -> bool:
        return saver.consider(updates, Performance("success", value, 20))

    saver = make_saver(tmp_path, keep=1)
    save(saver, 1, 0.9)
    save(saver, 2)
    saver.held = 2
    save(saver, 3)
    # Held while it is evaluated, although it is neither new nor the best.
    assert numbers(tmp_path) == [1, 2, 3]
    assert consider(2, 0.3)
    saver.held = None
    save(saver, 4)
    assert numbers(tmp_path) == [2, 4] and best(tmp_path) == 2
    assert not consider(4, 0.3) and not consider(3, 1.0), "a checkpoint that is gone cannot be the best"
    saver = make_saver(tmp_path, keep=1, saved=load_checkpoint(find_checkpoint(tmp_path, print)))
    assert not consider(4, 0.2) and consider(4, 0.5)
    save(saver, 5)
    assert numbers(tmp_path) == [4, 5] and best(tmp_path) == 4


def test_milestones_are_kept(tmp_path: Path) -> None:
    saver = make_saver(tmp_path, milestone_frames=40)
    for updates in range(1, 12):
        # A save between two intervals is due if a milestone has been passed.
        assert saver.milestone_is_due(10 * updates) == (updates in (4, 8))
        save(saver, updates)
        assert not saver.milestone_is_due(10 * updates)
    assert numbers(tmp_path) == [4, 8, 10, 11]
    saver = make_saver(tmp_path, milestone_frames=40, saved=load_checkpoint(find_checkpoint(tmp_path, print)))
    assert not saver.milestone_is_due(119) and saver.milestone_is_due(120)
    # Existing milestones are kept after milestones are switched off.
    saver = make_saver(tmp_path, saved=load_checkpoint(find_checkpoint(tmp_path, print)))
    save(saver, 12)
    save(saver, 13)
    assert numbers(tmp_path) == [4, 8, 12, 13]


def test_best_checkpoint_uses_return_if_success_is_unknown() -> None:
    statistics = Statistics(("a", "b"))
    assert statistics.recent_performance() is None
    statistics.tasks["a"].recent.append((4.0, math.nan, 7))
    assert statistics.recent_performance() is None
    statistics.tasks["b"].recent.extend([(2.0, math.nan, 7), (0.0, math.nan, 3)])
    assert statistics.recent_performance() == Performance("return", 2.5, 1)
    for task in statistics.tasks.values():
        task.recent.append((0.0, 1.0, 1))
    assert statistics.recent_performance() is not None


def test_thresholds_are_of_the_means_over_tasks_of_enough_episodes() -> None:
    statistics = Statistics(("a", "b"), {task: Score(random=0.0, human=10.0) for task in "ab"})
    for task, value in (("a", 4.0), ("b", 8.0)):
        statistics.tasks[task].recent.extend([(value, math.nan, 7)] * WINDOW)
        statistics.tasks[task].episodes = WINDOW
    assert statistics.reaches({"return": 6.0}) and statistics.reaches({"return": -1.0, "score": 60.0})
    assert not statistics.reaches({"return": 6.1}) and not statistics.reaches({"return": 6.0, "score": 60.1})
    assert not statistics.reaches({"success": 0.0}), "the suite does not know it"
    assert not statistics.reaches({})
    statistics.tasks["b"].episodes = WINDOW - 1
    assert not statistics.reaches({"return": 1.0})


@pytest.mark.parametrize(
    "kept", [3, {}, {"best": {"updates": "../../x"}, "milestones": []}, {"best": {}, "milestones": [-1]}]
)
def test_invalid_record_of_kept_checkpoints_is_refused(tmp_path: Path, kept: object) -> None:
    with pytest.raises(InputError, match="not readable"):
        make_saver(tmp_path, saved=PLAIN | {"kept": kept})


def test_failed_write_is_reported_once_and_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    saver = make_saver(tmp_path, said, keep=1, milestone_frames=40)
    save(saver, 3)

    def refuses(code: int) -> None:
        def replace(*arguments: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "replace", replace)

    refuses(errno.ENOSPC)
    for updates in (4, 5):
        save(saver, updates, 0.5)
        assert not saver.milestone_is_due(10 * updates), "the retry waits for the next interval"
    refuses(errno.EROFS)
    save(saver, 6)
    assert saver.failed == 3
    assert [os.strerror(code) in text for code, text in zip((errno.ENOSPC, errno.EROFS), said, strict=True)] == [
        True
    ] * 2
    # No checkpoint was removed for a failed one, and no partial file is left.
    assert os.listdir(tmp_path / "checkpoints") == ["checkpoint-000000000003.pt"]
    with pytest.raises(SaveError, match=r"Read-only.*continues from .*checkpoint-000000000003\.pt\.") as caught:
        saver.raise_if_unsaved(6)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    save(saver, 7)
    assert saver.failed == 3 and said[2].endswith("is written again.")
    # The next successful save becomes the milestone that failed.
    save(saver, 8)
    assert numbers(tmp_path) == [7, 8]
    with pytest.raises(InputError, match="no best"):
        best(tmp_path)
    saver.raise_if_unsaved(8)
    assert saver.describe_saved_state(8) == "The run was saved up to here: resume=true continues it."
    assert "was not saved: resume=true continues from" in saver.describe_saved_state(9)


def test_failure_to_remove_checkpoints_is_not_a_failure_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    saver = make_saver(tmp_path, said, keep=1)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint_saver, "remove_checkpoints", refuse)
    save(saver, 1, 0.5)
    save(saver, 2, 0.4)
    assert best(tmp_path) == 1 and len(said) == 1 and saver.failed == 2


class Disk:
    """A disk with room for `room` checkpoints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
        self.room, self._run, self._save = 99, run, checkpoint_saver.save_checkpoint
        monkeypatch.setattr(checkpoint_saver, "save_checkpoint", self.save)

    def save(self, folder: Path, updates: int, content: dict[str, Any]) -> Path:
        if len(numbers(self._run)) >= self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._save(folder, updates, content)


def test_full_disk_removes_oldest_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    disk = Disk(monkeypatch, tmp_path)
    saver = make_saver(tmp_path, said, keep=9, milestone_frames=20)
    for updates, value in enumerate((0.9, 0.2, 0.3, 0.4, 0.5, 0.6), 1):
        save(saver, updates, value)
    # The best is 1, milestones are 2, 4 and 6.
    disk.room = 6
    save(saver, 7, 0.1)
    assert numbers(tmp_path) == [1, 2, 4, 5, 6, 7] and not saver.failed
    assert [line for line in said if "checkpoint-000000000003.pt is removed" in line] == said and len(said) == 1
    disk.room = 5
    save(saver, 8, 0.1)
    assert numbers(tmp_path) == [1, 2, 4, 6, 7] and saver.failed == 1
    disk.room = 9
    save(saver, 9, 0.1)
    assert numbers(tmp_path) == [1, 2, 4, 6, 7, 9]


def test_full_disk_keeps_newest_intact_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, tmp_path)
    saver = make_saver(tmp_path, keep=9)
    for updates in (1, 2, 3):
        save(saver, updates)
    (tmp_path / "checkpoints" / "checkpoint-000000000003.pt").write_bytes(b"torn")
    disk.room = 1
    save(saver, 4)
    assert numbers(tmp_path) == [2] and saver.failed == 1
