"""What a run keeps on the disk while it goes on: which checkpoints stay, which was the best, and what a disk that refuses means."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agents.run.metrics import WINDOW, Performance
from agents.storage.checkpoint import (
    CHECKPOINTS,
    kept_checkpoints,
    list_checkpoints,
    make_room,
    remove_checkpoints,
    save_checkpoint,
)


class SaveError(RuntimeError):
    """The run is over and could not be saved."""


class Saver:
    """Saves a run. A disk that refuses does not stop it: that is told once, counted, and tried again when it is next due.

    Args:
        folder: of the run.
        saved: content of the checkpoint that the run goes on from.
        say: shows a sentence.
        keep: the newest checkpoints that stay. The best one stays, too, and the milestones.
        milestone_frames: the first checkpoint at or after each multiple of so many frames stays; 0 = none.

    Attributes:
        failed: writes that the disk refused.
        folder: of the run.
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
        self.folder = folder
        self._keep = keep
        self._milestone_frames = milestone_frames
        self._kept = kept_checkpoints(saved or {})
        self._tried: int = self._kept["frames"]
        self._updates = -1
        self._say = say
        self._refused: dict[str, str] = {}

    def milestone_is_due(self, frames: int) -> bool:
        """Whether a milestone has been passed since `save` was last called."""
        return self._milestone_between(self._tried, frames)

    def save(self, content: dict[str, Any], *, updates: int, frames: int, performance: Performance | None) -> None:
        """Writes a checkpoint and then removes those whose time is over.

        Args:
            content: of agents.run.folder.checkpoint_content.
            performance: how well the agent does; None while that is unknown.
        """
        kept: dict[str, Any] = {
            "best": self._choose_best(updates, performance),
            "milestones": [
                *self._kept["milestones"],
                *([updates] if self._milestone_between(self._kept["frames"], frames) else []),
            ],
            "frames": frames,
        }
        folder = self.folder / CHECKPOINTS
        self._tried = frames
        with self.tolerate_failure("the checkpoint"):
            self._write(folder, updates, content | {"kept": kept})
            self._kept, self._updates = kept, updates
        if "the checkpoint" not in self._refused:
            best = kept["best"]
            with self.tolerate_failure("the folder of checkpoints"):
                remove_checkpoints(folder, self._keep, {*kept["milestones"], *([best["updates"]] if best else [])})

    def _write(self, folder: Path, updates: int, content: dict[str, Any]) -> None:
        """Writes a checkpoint. On a full disk the oldest ones make room for it, but for the newest intact one and those that stay."""
        before, new = self._kept, content["kept"]
        numbers = {number for kept in (before, new) for number in kept["milestones"]}
        numbers |= {kept["best"]["updates"] for kept in (before, new) if kept["best"]}
        while True:
            try:
                save_checkpoint(folder, updates, content)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not (removed := make_room(folder, numbers)):
                    raise
                self._say(f"{error.strerror}: {removed} is removed, to make room for a newer checkpoint.")

    @contextlib.contextmanager
    def tolerate_failure(self, what: str) -> Iterator[None]:
        """Around a write that training can go on without."""
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
        """Whether a run that ends after so many updates is saved, and what a resume would go on from: one sentence."""
        if self._updates == updates and not self._refused:
            return "The run was saved up to here: resume=true continues it."
        refused = ", ".join(f"{what}: {reason}" for what, reason in self._refused.items())
        found = list_checkpoints(self.folder / CHECKPOINTS)
        left = f"resume=true continues from {found[-1]}" if found else "there is no checkpoint to continue from"
        return f"The end of run={self.folder} was not saved{f' ({refused})' if refused else ''}: {left}."

    def raise_if_unsaved(self, updates: int) -> None:
        """At the end of a run; SaveError where something of it could not be written."""
        if self._refused:
            raise SaveError(self.describe_saved_state(updates))

    def _milestone_between(self, before: int, now: int) -> bool:
        every = self._milestone_frames
        return every > 0 and now // every > before // every

    def _choose_best(self, updates: int, performance: Performance | None) -> dict[str, Any]:
        """The best so far, this one included, as plain data. A value over few episodes may be luck: it yields to any over WINDOW."""
        best: dict[str, Any] = self._kept["best"]
        if performance is None:
            return best
        if best and (performance.episodes // WINDOW, performance.value) <= (best["episodes"] // WINDOW, best["value"]):
            return best
        return {"updates": updates, **performance._asdict()}
