"""Counts the restarts of a run for its metrics, records them in faults.jsonl, and raises after too many."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.runtime.base import ActorError
from envs.faults import ASKED_FOR, NONFINITE, Fault
from system.errors import InputError
from system.files import AppendedFile
from system.words import count

_MOST_WRITTEN = 1000
"""Records of numbers that are not finite, per task: an environment may return one in every episode."""


class Faults:
    """Restarts of actors and environments, and episodes that were broken off because a number was not finite.

    Args:
        max_restarts, window: More than `max_restarts` restarts within `window` seconds end the run.
        repeats: The run also ends after the same exception of the same task so many times before `batch_arrived`; 0 = never.
        record: Receives every fault as plain data: `time`, `where`, `task`, `cause`, `unrolls_dropped`, `episodes_dropped`, `detail`, and
            `count`, the faults of that task and cause since the run was started or resumed.

    Attributes:
        unrolls_dropped, episodes_dropped: Numbers of those that were not finished.
    """

    def __init__(
        self,
        *,
        max_restarts: int = 0,
        window: float = 300.0,
        repeats: int = 0,
        record: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.unrolls_dropped = 0
        self.episodes_dropped = 0
        self._max, self._window, self._record = max_restarts, window, record
        self._causes: Counter[str] = Counter()
        self._tasks: Counter[str] = Counter()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._recent: deque[tuple[float, str]] = deque()
        self._repeats, self._raised = repeats, Counter[tuple[str, str]]()

    def batch_arrived(self) -> None:
        """Ends the check for `repeats`: the actors can finish unrolls, so a failure is not permanent."""
        self._repeats = 0

    def add(self, where: str, fault: Fault, *, unrolls_dropped: int = 0, episodes_dropped: int = 0) -> None:
        """Records that `where` (an actor, or an environment of one) is about to be restarted, or to start its next episode.

        Raises ActorError after too many restarts, with a summary, and InputError if one was raised `repeats` times.
        """
        self._causes[fault.cause] += 1
        self._counts[fault.task, fault.cause] += 1
        self._tasks[fault.task] += fault.cause != NONFINITE
        self.unrolls_dropped += unrolls_dropped
        self.episodes_dropped += episodes_dropped
        if self._record is not None:
            dropped = {"unrolls_dropped": unrolls_dropped, "episodes_dropped": episodes_dropped}
            count = self._counts[fault.task, fault.cause]
            self._record({"time": time.time(), "where": where, **fault._asdict(), **dropped, "count": count})
        if fault.cause in ASKED_FOR or fault.cause == NONFINITE:
            return
        now = time.monotonic()
        self._recent.append((now, describe(where, fault)))
        while now - self._recent[0][0] > self._window:
            self._recent.popleft()
        if len(self._recent) > self._max:
            raise ActorError(self._summary(fault))
        if self._repeats and fault.cause == "raised":
            line = summary_line(fault).rstrip(".")
            self._raised[fault.task, line] += 1
            if self._raised[fault.task, line] >= self._repeats:
                if "\n" not in fault.detail:
                    # The message of an InputError; other exceptions come with a traceback.
                    raise InputError(fault.detail)
                raise ActorError(
                    f"{f'env.tasks={fault.task}' if fault.task else where} failed {self._repeats} times in the same way before the first "
                    f"unroll was complete ({line}): mend it, or leave it out; faults.jsonl in the run folder has the traceback."
                )

    def add_record(self, record: dict[str, Any], of: str = "") -> None:
        """`add` for a record of another process's Faults; `of` is appended to `where`."""
        self.add(
            record["where"] + of,
            _fault_of(record),
            unrolls_dropped=record["unrolls_dropped"],
            episodes_dropped=record["episodes_dropped"],
        )

    def row(self) -> dict[str, float]:
        """Counts since the start of the run, for metrics.jsonl."""
        restarts = {cause: count for cause, count in sorted(self._causes.items()) if cause != NONFINITE}
        return {
            "restarts": sum(restarts.values()),
            NONFINITE: self._causes[NONFINITE],
            "unrolls_dropped": self.unrolls_dropped,
            "episodes_dropped": self.episodes_dropped,
            **{f"restarts/{cause}": count for cause, count in restarts.items()},
        }

    def restarts_of(self, task: str) -> int:
        """Restarts that this task has caused."""
        return self._tasks[task]

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "unrolls_dropped": self.unrolls_dropped,
            "episodes_dropped": self.episodes_dropped,
            "causes": dict(self._causes),
            "tasks": dict(self._tasks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`. Early checkpoints have an empty state, which means zero everywhere."""
        self.unrolls_dropped, self.episodes_dropped = state.get("unrolls_dropped", 0), state.get("episodes_dropped", 0)
        self._causes, self._tasks = Counter(state.get("causes", {})), Counter(state.get("tasks", {}))

    def _summary(self, last: Fault) -> str:
        detail = f"\n{last.detail}" if "\n" in last.detail else ""
        if not self._max:
            return f"{self._recent[-1][1]}{detail}"
        counts = Counter(text for _, text in self._recent)
        listed = "".join(f"\n  {number} x {text}" for text, number in counts.most_common(10))
        many = f"{count(len(self._recent), 'restart')} within {self._window:g} s exceed"
        return f"{many} runtime.max_restarts={self._max}:{listed}{detail}"


def record_faults(folder: Path, say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """A `record` for Faults, which appends every restart to faults.jsonl of this run folder and shows it to the user by `say`.

    There may be thousands of numbers that are not finite. Of each task it shows the 1st, 10th, 100th and so on, and records the first
    _MOST_WRITTEN and those that it shows.
    """

    def write(record: dict[str, Any]) -> None:
        fault, number = _fault_of(record), record["count"]
        if fault.cause == NONFINITE:
            if str(number).strip("0") == "1":
                so_far = f" ({number:,} such episodes of this task so far)" if number > 1 else ""
                say(f"{describe(record['where'], fault)}; the episode is broken off{so_far}")
            elif number > _MOST_WRITTEN:
                return
        else:
            say(f"{describe(record['where'], fault)}; started again")
        # On a full disk the next checkpoint reports the error.
        with contextlib.suppress(OSError), contextlib.closing(AppendedFile(folder / "faults.jsonl")) as file:
            file.write(json.dumps(record).encode() + b"\n")

    return write


def _fault_of(record: dict[str, Any]) -> Fault:
    return Fault(**{key: record[key] for key in Fault._fields})


_VERBS = {
    "raised": "failed",
    "exited": "exited",
    "killed": "was killed",
    "hung": "hung",
    "lost": "was lost",
    NONFINITE: "broke",
}


def summary_line(fault: Fault) -> str:
    """One line of `Fault.detail`: the last of a traceback, the first of others."""
    lines = fault.detail.strip().splitlines() or [""]
    return lines[-1] if fault.cause == "raised" else lines[0]


def describe(where: str, fault: Fault) -> str:
    """A fault in one line: where, at which task, and what happened."""
    named = f" (task {fault.task})" if fault.task else ""
    return f"{where}{named} {_VERBS.get(fault.cause, 'was renewed')}: {summary_line(fault)}"
