"""Trackers: where the metrics of a run are shown besides metrics.jsonl. `logger` names them; each is imported only if it is named."""

from __future__ import annotations

import importlib.util
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agents.cli.terminal import printable
from system.errors import InputError
from system.files import read_json, write_json

IDS = "trackers.json"
"""File in the run folder: by tracker, the id of the run in it, so that a resume continues that run."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TrackedRun(NamedTuple):
    """A run as its trackers see it.

    Attributes:
        folder: Its folder, whose name is the run's name in every tracker.
        config: Its configuration as nested plain data. Its texts, and the name, are printable, because trackers take no surrogates.
        frames: Frames at which this process begins to log; rows after them are of a killed process. None for a process that adds to a
            run and does not train, as evaluate.py.
    """

    folder: Path
    config: Mapping[str, Any]
    frames: int | None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return printable(self.folder.resolve().name)


class Tracker(Protocol):
    """One tracker of a run. The step of everything is the number of env frames. Any method may raise any exception."""

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        """Adds finite values by their tags (tags.py)."""

    def picture(self, frames: int, tag: str, png: Path) -> None:
        """Adds a picture, which is in the run folder already."""

    def video(self, frames: int, tag: str, path: Path) -> None:
        """Adds a video, .mp4 or .gif, which is in the run folder already."""

    def close(self) -> None:
        """Writes what is left."""


def _tensorboard(run: TrackedRun) -> Tracker:
    from agents.run.trackers.tensorboard_files import TensorBoard

    return TensorBoard(run)


def _wandb(run: TrackedRun) -> Tracker:
    from agents.run.trackers.wandb_run import WandbRun

    return WandbRun(run)


def _mlflow(run: TrackedRun) -> Tracker:
    from agents.run.trackers.mlflow_run import MlflowRun

    return MlflowRun(run)


def _csv(run: TrackedRun) -> Tracker:
    from agents.run.trackers.csv_file import CsvFile

    return CsvFile(run)


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "csv": _csv,
}


class Trackers:
    """The trackers of a run. One that fails later is reported once by `say` and tried again at the next row: it never ends the run.

    Raises InputError if a tracker cannot start.
    """

    def __init__(self, names: Iterable[str], run: TrackedRun, say: Callable[[str], object]) -> None:
        self._say = say
        self._failing: set[str] = set()
        self._trackers: dict[str, Tracker] = {}
        run = run._replace(config=_printable(run.config))
        for name in dict.fromkeys(names):
            try:
                self._trackers[name] = TRACKERS[name](run)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"logger={name} cannot start ({_reason(error)}): mend this, or leave it out."
                ) from error

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self._each(lambda tracker: tracker.log(frames, values))

    def picture(self, frames: int, tag: str, png: Path) -> None:
        """See Tracker."""
        self._each(lambda tracker: tracker.picture(frames, tag, png))

    def video(self, frames: int, tag: str, path: Path) -> None:
        """See Tracker."""
        self._each(lambda tracker: tracker.video(frames, tag, path))

    def close(self) -> None:
        """See Tracker. May be called twice."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in self._trackers.items():
            try:
                call(tracker)
            except Exception as error:
                # Of a library for a service on a network: no list of its exceptions would be complete.
                if name not in self._failing:
                    self._failing.add(name)
                    self._say(f"logger={name} fails ({_reason(error)}): the run continues and will try again.")
            else:
                if name in self._failing:
                    self._failing.remove(name)
                    self._say(f"logger={name} works again.")


def check_trackers(names: Sequence[str]) -> None:
    """Raises InputError if the package of a tracker is missing, or nobody is logged in to it."""
    for name in names:
        found = None if name == "csv" else importlib.util.find_spec(name)
        # A folder `wandb`, which W&B makes in the current folder, is found as a package without an origin.
        if name != "csv" and (found is None or found.origin is None):
            raise InputError(f'logger={name} needs the package {name}: pip install "mimpala[{name}]", or leave it out.')
    if "wandb" in names:
        from agents.run.trackers.wandb_run import check_login

        check_login()


def _printable(value: Any) -> Any:
    """Nested plain data with `printable` texts."""
    if isinstance(value, Mapping):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def id_of(run: TrackedRun, tracker: str, make: Callable[[], str] = lambda: uuid.uuid4().hex[:12]) -> str:
    """The id of this run in a tracker: the one in its folder, or else what `make` returns, which is then kept there."""
    ids = read_json(run.folder / IDS) or {}
    known = ids.get(tracker)
    if isinstance(known, str) and _ID.fullmatch(known):
        return known
    new = make()
    write_json(run.folder / IDS, ids | {tracker: new})
    return new


def _reason(error: Exception) -> str:
    """The first line of an error's message, or the name of its type."""
    return (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
