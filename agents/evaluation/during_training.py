"""Evaluation while a run trains: fixed episodes of each task on the evaluation seeds, in a process beside the actors.

The process plays a checkpoint as evaluate.py does, so that both give the same result. It shares no random numbers with the training, and
ends with the run.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from agents.cli.signals import InterruptedWait
from agents.run.metrics import Performance
from agents.run.session import Session
from agents.runtime.base import ActorError
from agents.runtime.processes.fork_server import ending, kill, start_child
from conf.allowlist import external_names
from system.descendants import end_orphans
from system.errors import ErrorReport, InputError
from system.files import AppendedFile, finite_or_null, parse_json, read_lines, write_whole
from system.plain_data import COUNT, FINITE, PlainDataError, check_form
from system.words import count

FILE = "evaluations.jsonl"
"""File in the run folder: one JSON object per evaluation, and per evaluation that failed."""

_WAIT_SECONDS = 0.5
"""Seconds between two looks for a signal while the end of a run waits for its last evaluation."""

_FORM = {"updates": COUNT, "frames": COUNT}
_RESULT_FORM = {"episodes": COUNT, "measure": str, "value": FINITE}


class _Running(NamedTuple):
    """An evaluation that plays: its process, what it evaluates, and when it started."""

    process: BaseProcess
    connection: Connection
    updates: int
    frames: int
    started: float


class Evaluations:
    """The evaluations of a run: each time its frames have passed a multiple of `evaluate_every`, and at its end. 0: none.

    One evaluation plays at a time. One that is due before the last has ended starts after it, with the weights of that moment. A resumed
    run repeats an evaluation that was interrupted. A failure is reported and recorded, and does not end the run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._every = session.config.evaluate_every
        self._running: _Running | None = None
        self._begun = self._resume() if self._every else 0

    def advance(self) -> None:
        """Takes the result of an evaluation that has ended, and starts one that is due. Call it after each batch."""
        if not self._every:
            return
        if self._running:
            self._receive(0.0)
        if self._running is None and self._session.frames // self._every > self._begun // self._every:
            self._start()

    def finish(self) -> None:
        """At the end of a run: waits for the evaluation that plays, and then for one of the last weights, unless a signal comes."""
        session = self._session
        if not self._every or session.ended_by() in ("signal", "pause"):
            return
        with contextlib.suppress(InterruptedWait):
            self._wait()
            if session.frames > self._begun:
                self._start()
                self._wait()

    def close(self) -> None:
        """Ends an evaluation that plays. May be called twice."""
        if self._running:
            running, self._running = self._running, None
            kill(running.process)
            running.connection.close()
            end_orphans()
            self._session.hold_checkpoint(None)

    def _start(self) -> None:
        session = self._session
        self._begun = session.frames
        # A checkpoint that cannot be written has been reported.
        if (path := session.save()) is None:
            return
        updates, config = session.learner.counters.updates, session.config
        allowed = [*config.allow, *config.plugins, *external_names(config.env)]
        try:
            process, connection = start_child(
                "evaluation", play_checkpoint, str(path.absolute()), config.evaluate_episodes, allowed, threads=1
            )
        except ActorError as error:
            self._report_failure(updates, session.frames, str(error))
            return
        session.hold_checkpoint(updates)
        self._running = _Running(process, connection, updates, session.frames, time.monotonic())

    def _wait(self) -> None:
        """Waits for the evaluation that plays. Raises InterruptedWait if a signal comes."""
        if self._running:
            self._session.say(f"evaluating the weights at {count(self._running.frames, 'frame')}")
        while self._running:
            self._session.interruption.check()
            self._receive(_WAIT_SECONDS)

    def _receive(self, seconds: float) -> None:
        """Waits so long for the result of the evaluation that plays, and takes it."""
        running = self._running
        assert running
        if not running.connection.poll(seconds):
            return
        try:
            content: Any = running.connection.recv()
        except (EOFError, OSError):
            content = ErrorReport(f"its process ended: {ending(running.process)[1]}", is_input_error=True)
        self.close()
        if isinstance(content, ErrorReport):
            self._report_failure(running.updates, running.frames, content.text)
        else:
            self._report(running, content)

    def _report(self, running: _Running, content: Mapping[str, Any]) -> None:
        # Imported here, because most runs have no evaluation.
        from agents.evaluation.tracking import evaluation_values

        session, total = self._session, content["aggregate"]
        measure = "return" if total["success"] is None else "success"
        value = total["mean"] if measure == "return" else total["success"]
        episodes = session.config.evaluate_episodes
        row: dict[str, Any] = {"updates": running.updates, "frames": running.frames}
        row |= {"seconds": time.monotonic() - running.started, "episodes": episodes, "measure": measure, "value": value}
        self._record(row | {key: content[key] for key in ("tasks", "aggregate", "scores", "unseen") if key in content})
        session.track_evaluation(running.frames, evaluation_values(content))
        is_best = session.consider_best(running.updates, Performance(measure, value, episodes))
        shown = _shown(measure, value)
        if unseen := content.get("unseen", {}).get("aggregate"):
            shown += f" ({_shown(measure, unseen['success' if measure == 'success' else 'mean'])} on contexts that training leaves out)"
        best = ", the best so far" if is_best else ""
        session.say(
            f"evaluation at {count(running.frames, 'frame')}: mean {measure} {shown} of {count(episodes, 'episode')} per task{best}"
        )

    def _report_failure(self, updates: int, frames: int, text: str) -> None:
        self._record({"updates": updates, "frames": frames, "error": text})
        reason = text.strip().splitlines()[-1].rstrip(".")
        self._session.say(f"the evaluation at {count(frames, 'frame')} failed ({reason}): training continues.")

    def _record(self, row: Mapping[str, Any]) -> None:
        with self._session.tolerate_failure(FILE):
            file = AppendedFile(self._session.folder / FILE)
            try:
                file.write((json.dumps(finite_or_null(row), allow_nan=False) + "\n").encode())
            finally:
                file.close()

    def _resume(self) -> int:
        """Reads the evaluations up to the checkpoint from which the run continues and drops later ones. Returns the frames of the last."""
        session, path = self._session, self._session.folder / FILE
        updates = session.learner.counters.updates
        if not path.exists():
            return 0
        try:
            rows = [row for row in map(_row, read_lines(path)) if row and row["updates"] <= updates]
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): put it back, or remove it.") from error
        with session.tolerate_failure(FILE):
            write_whole(path, "".join(json.dumps(finite_or_null(row)) + "\n" for row in rows))
        for row in rows:
            with contextlib.suppress(PlainDataError):
                check_form(row, _RESULT_FORM)
                # The newest checkpoint may be older than the evaluation.
                session.consider_best(row["updates"], Performance(row["measure"], float(row["value"]), row["episodes"]))
        return max((row["frames"] for row in rows), default=0)


def _shown(measure: str, value: float) -> str:
    return f"{value:.1%}" if measure == "success" else f"{value:.3f}"


def _row(line: str) -> dict[str, Any] | None:
    """The object of a line; None if it is damaged."""
    try:
        row: dict[str, Any] = parse_json(line)
        check_form(row, _FORM)
    except (ValueError, PlainDataError):
        return None
    return row


def play_checkpoint(connection: Connection, path: str, episodes: int, allowed: Sequence[str]) -> None:
    """Main function of the process: plays a checkpoint and sends the content of evaluation.json, without the single episodes."""
    from agents.evaluation.episodes import evaluation_spec, load_agent, play, quotas
    from agents.evaluation.probe_report import play_unseen, plays_unseen, unseen_report
    from agents.evaluation.report import report
    from conf.evaluate_schema import EvaluateConfig

    agent = load_agent(Path(path), allowed)
    spec, config = evaluation_spec(agent, (), ""), EvaluateConfig(run=path, episodes=episodes)
    played = {task: play(agent, spec, task, config, lambda: None) for task in spec.tasks}
    content = report(agent, spec, config, len(quotas(episodes, config.slots)), played)
    if plays_unseen(agent, config):
        content["unseen"] = unseen_report(agent, played, play_unseen(agent, spec, config, lambda: None))
    for row in [*content["tasks"].values(), *content.get("unseen", {}).get("tasks", {}).values()]:
        for key in ("seeds", "returns", "lengths", "successes"):
            del row[key]
    connection.send(content)
