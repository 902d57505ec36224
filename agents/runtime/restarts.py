"""What went wrong in a run and was mended: counted for the metrics, written down, and too many restarts end the run."""

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

_MOST_WRITTEN = 1000
"""Numbers that are not finite of one task, each with a record of its own: an environment may give one in every episode."""


class Faults:
    """Restarts of actors and of environments, and episodes that were broken off because a number was not finite.

    Args:
        max_restarts, window: more than so many restarts within so many seconds end the run.
        repeats: so many times the same exception at the same task, before `begun` is called, end it too; 0 = never.
        record: is given every fault as plain data (`time`, `where`, `task`, `cause`, `unrolls_dropped`, `episodes_dropped`, `detail`, and
            `count`: how many of that cause the task has had by then, since the run was begun or resumed).

    Attributes:
        unrolls_dropped: unrolls that were not finished.
        episodes_dropped: episodes that were not.
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

    def begun(self) -> None:
        """The first unroll is complete: whatever fails from now on does not always fail."""
        self._repeats = 0

    def add(self, where: str, fault: Fault, *, unrolls_dropped: int = 0, episodes_dropped: int = 0) -> None:
        """Takes in that `where` (an actor, or a slot of one) is about to be started again, or to play its next episode.

        Raises:
            ActorError: it was one time too many; the message sums up what happened.
            InputError: `repeats` of them were, and each was an InputError.
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
            said = (fault.task, telling_line(fault).rstrip("."))
            self._raised[said] += 1
            if self._raised[said] >= self._repeats:
                if "\n" not in fault.detail:
                    # The sentence of an InputError.
                    raise InputError(fault.detail)
                raise ActorError(
                    f"{f'env.tasks={fault.task}' if fault.task else where} failed {self._repeats} times in the same way before the first "
                    f"unroll was complete ({said[1]}): mend it, or leave it out; faults.jsonl in the run folder has the traceback."
                )

    def row(self) -> dict[str, float]:
        """Counts since the beginning of the run, for metrics.jsonl."""
        restarts = {cause: count for cause, count in sorted(self._causes.items()) if cause != NONFINITE}
        return {
            "restarts": sum(restarts.values()),
            NONFINITE: self._causes[NONFINITE],
            "unrolls_dropped": self.unrolls_dropped,
            "episodes_dropped": self.episodes_dropped,
            **{f"restarts/{cause}": count for cause, count in restarts.items()},
        }

    def restarts_of(self, task: str) -> int:
        """Restarts that this task is to blame for."""
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
        """The inverse of `state_dict`; an empty one, of a checkpoint from before there were any, is all zeros."""
        self.unrolls_dropped, self.episodes_dropped = state.get("unrolls_dropped", 0), state.get("episodes_dropped", 0)
        self._causes, self._tasks = Counter(state.get("causes", {})), Counter(state.get("tasks", {}))

    def _summary(self, last: Fault) -> str:
        detail = f"\n{last.detail}" if "\n" in last.detail else ""
        if not self._max:
            return f"{self._recent[-1][1]}{detail}"
        counts = Counter(text for _, text in self._recent)
        listed = "".join(f"\n  {count} x {text}" for text, count in counts.most_common(10))
        many = f"{len(self._recent)} restarts within {self._window:g} seconds are more than"
        return f"{many} runtime.max_restarts={self._max}:{listed}{detail}"


class FaultRecord:
    """Writes every restart into faults.jsonl of a run folder and tells the user.

    Numbers that are not finite may come by the thousand. Of each task the 1st, 10th, 100th and so on are told; _MOST_WRITTEN, and from
    then on those that are told, are written.

    Args:
        folder: of the run.
        say: shows a line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._path, self._say = folder / "faults.jsonl", say

    def __call__(self, record: dict[str, Any]) -> None:
        """See Faults."""
        fault, count = Fault(**{key: record[key] for key in Fault._fields}), record["count"]
        if fault.cause == NONFINITE:
            told = str(count).strip("0") == "1"
            if told:
                so_far = f" ({count:,} such episodes of this task so far)" if count > 1 else ""
                self._say(f"{describe(record['where'], fault)}; the episode is broken off{so_far}")
            elif count > _MOST_WRITTEN:
                return
        else:
            self._say(f"{describe(record['where'], fault)}; started again")
        # A disk that is full is told where checkpoints are saved.
        with contextlib.suppress(OSError), contextlib.closing(AppendedFile(self._path)) as file:
            file.write(json.dumps(record).encode() + b"\n")


_VERBS = {
    "raised": "failed",
    "exited": "exited",
    "killed": "was killed",
    "hung": "hung",
    "lost": "was lost",
    NONFINITE: "broke",
}


def telling_line(fault: Fault) -> str:
    """The line of `Fault.detail` that says most, which is a traceback's last."""
    lines = fault.detail.strip().splitlines() or [""]
    return lines[-1] if fault.cause == "raised" else lines[0]


def describe(where: str, fault: Fault) -> str:
    """A restart in one line: who, at which task, and what happened."""
    named = f" (task {fault.task})" if fault.task else ""
    return f"{where}{named} {_VERBS.get(fault.cause, 'was renewed')}: {telling_line(fault)}"
