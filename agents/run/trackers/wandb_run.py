"""Weights & Biases. Project, entity and mode follow its own variables, such as WANDB_PROJECT and WANDB_MODE=offline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.run.trackers.tracker import TrackedRun, id_of
from system.errors import InputError


def check_login() -> None:
    """Asks for the API key on a terminal. Raises InputError if there is none, unless W&B is offline."""
    import wandb

    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    try:
        # Unverified, because that would need W&B's own process, which a refusal of the run would have to end.
        wandb.login(verify=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"logger=wandb cannot log in ({reason}): run `wandb login`, or set WANDB_MODE=offline and run `wandb sync` later."
        ) from error


class WandbRun:
    """The run in W&B: a new one, or the one of the run folder, which continues."""

    def __init__(self, run: TrackedRun) -> None:
        # It takes the package `agents` of this project for an agent framework, and advertises.
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        import wandb

        self._wandb = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mimpala"),
            name=run.name,
            id=id_of(run, "wandb"),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            # The terminal belongs to the run's own display.
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("frames")
        self._run.define_metric("*", step_metric="frames")

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        self._run.log({"frames": frames, **values})

    def picture(self, frames: int, tag: str, png: Path) -> None:
        self._run.log({"frames": frames, tag: self._wandb.Image(str(png))})

    def video(self, frames: int, tag: str, path: Path) -> None:
        self._run.log({"frames": frames, tag: self._wandb.Video(str(path), format=path.suffix[1:])})

    def close(self) -> None:
        self._run.finish()
        if self._wandb.run is None:
            # Ends W&B's own process, which otherwise would be killed with the program's other processes and report that at its exit.
            self._wandb.teardown()
