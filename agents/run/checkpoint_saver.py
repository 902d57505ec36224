"""Writes the checkpoints of a run, removes old ones, and tolerates a disk that is full or fails."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agents.run.metrics import WINDOW, Performance
from agents.storage.checkpoint import (
    CHECKPOINTS,
    checkpoint_path,
    kept_checkpoints,
    list_checkpoints,
    make_room,
    remove_checkpoints,
    save_checkpoint,
)
from system.errors import RunError


class SaveError(RunError):
    """The run has ended and its last state or result could not be written."""


class Saver:
    """Saves a run. A failed write does not stop training: it is reported once, counted in `failed`, and retried at the next interval.

    Args:
        saved: Content of the checkpoint from which the run continues; None for a new run.
        keep: Number of newest checkpoints to keep, besides the best one and the milestones.
        milestone_frames: Frames between milestones. The first checkpoint at or after each multiple is kept; 0 = none.

    Attributes:
        held: Updates of a checkpoint that another process reads, which is kept meanwhile; None: none.
    """

    def __init__(
        self,
        folder: Path,
        saved: dict[str, Any] | None,
        say: Callable[[str], object],
        *,
        keep: int,
        milestone_frames: int,
    ) -> None:
        self.failed = 0
        self.held: int | None = None
        self.folder = folder
        self._keep = keep
        self._milestone_frames = milestone_frames
        self._kept = kept_checkpoints(saved or {})
        self._tried: int = self._kept["frames"]
        self._updates = -1
        self._say = say
        self._refused: dict[str, str] = {}

    def milestone_is_due(self, frames: int) -> bool:
        """Whether the frames have passed a milestone since the last call of `save`."""
        return self._milestone_between(self._tried, frames)

    def save(
        self, content: dict[str, Any], *, updates: int, frames: int, performance: Performance | None
    ) -> Path | None:
        """Writes a checkpoint and removes older ones that are not kept. Returns its path; None if it could not be written.

        `content` is that of agents.run.run_state.checkpoint_content. `performance` decides the best checkpoint; None if it is unknown.
        """
        milestones = [*self._kept["milestones"]]
        if self._milestone_between(self._kept["frames"], frames):
            milestones.append(updates)
        kept: dict[str, Any] = {
            "best": self._choose_best(updates, performance),
            "milestones": milestones,
            "frames": frames,
        }
        folder = self.folder / CHECKPOINTS
        self._tried = frames
        path = None
        with self.tolerate_failure("the checkpoint"):
            path = self._write(folder, updates, content | {"kept": kept})
            self._kept, self._updates = kept, updates
        if path:
            with self.tolerate_failure("the folder of checkpoints"):
                remove_checkpoints(folder, self._keep, self._numbers(kept))
        return path

    def consider(self, updates: int, performance: Performance) -> bool:
        """Makes a checkpoint the best one, if its evaluation is better than that of the best one. Returns whether it is the best now.

        The next checkpoint records it. Any evaluation is better than the figures of training episodes.
        """
        best = self._kept["best"]
        if best.get("evaluated") and best["updates"] != updates and performance.value <= best["value"]:
            return False
        if not checkpoint_path(self.folder / CHECKPOINTS, updates).exists():
            return False
        self._kept = {**self._kept, "best": {"updates": updates, **performance._asdict(), "evaluated": True}}
        return True

    def _numbers(self, *kept: dict[str, Any]) -> set[int]:
        """The updates of the checkpoints that stay besides the newest."""
        numbers = {number for one in kept for number in one["milestones"]}
        numbers |= {one["best"]["updates"] for one in kept if one["best"]}
        return numbers | ({self.held} if self.held is not None else set())

    def _write(self, folder: Path, updates: int, content: dict[str, Any]) -> Path:
        """Writes a checkpoint. On a full disk it removes old checkpoints, but never the newest intact one, the best or a milestone."""
        numbers = self._numbers(self._kept, content["kept"])
        while True:
            try:
                return save_checkpoint(folder, updates, content)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not (removed := make_room(folder, numbers)):
                    raise
                self._say(f"{error.strerror}: {removed} is removed, to make room for a newer checkpoint.")

    @contextlib.contextmanager
    def tolerate_failure(self, what: str) -> Iterator[None]:
        """Counts and reports an OSError of its body instead of raising it. `what` names the file in the message."""
        try:
            yield
        except OSError as error:
            self.failed += 1
            reason = error.strerror or type(error).__name__
            if self._refused.get(what) != reason:
                self._refused[what] = reason
                self._say(
                    f"{what} in {self.folder} cannot be written ({reason}): training continues and will try again."
                )
        else:
            if self._refused.pop(what, ""):
                self._say(f"{what} in {self.folder} is written again.")

    def describe_saved_state(self, updates: int) -> str:
        """One sentence: whether a run that ends after `updates` is saved, and from which checkpoint a resume continues."""
        if self._updates == updates and not self._refused:
            return "The run was saved up to here: resume=true continues it."
        refused = ", ".join(f"{what}: {reason}" for what, reason in self._refused.items())
        found = list_checkpoints(self.folder / CHECKPOINTS)
        left = f"resume=true continues from {found[-1]}" if found else "there is no checkpoint to continue from"
        return f"The end of run={self.folder} was not saved{f' ({refused})' if refused else ''}: {left}."

    def raise_if_unsaved(self, updates: int) -> None:
        """Raises SaveError if the last write of any file failed. `updates` is the learner's number of updates."""
        if self._refused:
            raise SaveError(self.describe_saved_state(updates))

    def _milestone_between(self, before: int, now: int) -> bool:
        every = self._milestone_frames
        return every > 0 and now // every > before // every

    def _choose_best(self, updates: int, performance: Performance | None) -> dict[str, Any]:
        """The best checkpoint including this one, as plain data. A value over WINDOW episodes beats any value over fewer."""
        best: dict[str, Any] = self._kept["best"]
        if performance is None:
            return best
        if best and (performance.episodes // WINDOW, performance.value) <= (best["episodes"] // WINDOW, best["value"]):
            return best
        return {"updates": updates, **performance._asdict()}
