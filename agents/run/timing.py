"""Time and rates of a run: intervals, frames per second, time shares, and the policy lag."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from agents.learning.learner import Counters
from agents.run.bottleneck import Seconds, TimeShares
from agents.runtime.base import Batch

_WARM_UP_UPDATES = 20
"""Updates before `steady_frames_per_second` and `shares` start: until then processes start and caches fill."""


class _Reading(NamedTuple):
    """Agent steps of the run, and seconds spent since the start of this process."""

    steps: int
    spent: Seconds


class Clock:
    """Measures time, speed and policy lag, in total and since the last log step.

    Args:
        seconds: Seconds that the run took in earlier processes.
        state: Counters at the start of this process.
        action_repeat: Frames per agent step.
    """

    def __init__(self, seconds: float, state: Counters, *, action_repeat: int) -> None:
        self._earlier = seconds
        self._began = time.perf_counter()
        self._repeat = action_repeat
        self._due: dict[str, float] = {}
        self._first_updates = state.updates
        self._spent = Seconds()
        self._warm: _Reading | None = None
        self._newest = _Reading(state.steps, self._spent)
        self._frames = state.steps * action_repeat
        self._begin_row(state)

    @property
    def seconds(self) -> float:
        """Seconds of the run in all of its processes, without the time between them."""
        return self._earlier + time.perf_counter() - self._began

    @property
    def steady_frames_per_second(self) -> float:
        """Frames per second after the warm-up; 0 during it."""
        if self._warm is None:
            return 0.0
        seconds = self._newest.spent.loop - self._warm.spent.loop
        return (self._newest.steps - self._warm.steps) * self._repeat / max(seconds, 1e-9)

    @property
    def shares(self) -> TimeShares | None:
        """Time shares from the warm-up to the newest update; None during the warm-up."""
        if self._warm is None or self._warm is self._newest:
            return None
        return TimeShares.between(self._warm.spent, self._newest.spent)

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Counts the time of its body as time of the disk."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent = self._spent._replace(disk=self._spent.disk + time.perf_counter() - began)

    def count_batch(self, batch: Batch, before: Sequence[int], state: Counters) -> None:
        """Counts the updates of one batch.

        The policy lag of an update is the number of updates between the weights that acted and the weights that it changes. Every
        update has columns of every unroll of its batch, because a batch joins several unrolls or is one unroll (agents.setup.plan).

        Args:
            before: For each update of the batch, the number of updates before it.
            state: Counters after the batch.
        """
        self._lags += [made - version for made in before for version in batch.weights_versions]
        spent = self._spent
        self._spent = Seconds(
            loop=time.perf_counter() - self._began,
            wait=spent.wait + batch.wait_seconds,
            disk=spent.disk,
            actors=spent.actors + batch.actor_seconds,
            env=spent.env + batch.env_seconds,
            inference=spent.inference + batch.inference_seconds,
            actor_wait=spent.actor_wait + batch.actor_wait_seconds,
        )
        self._newest = _Reading(state.steps, self._spent)
        if self._warm is None and state.updates >= self._first_updates + _WARM_UP_UPDATES:
            self._warm = self._newest

    def seconds_passed(self, what: str, interval: float) -> bool:
        """Whether `interval` seconds have passed since this method last returned True for `what`, or since the start."""
        now = time.perf_counter()
        if now - self._due.setdefault(what, self._began) < interval:
            return False
        self._due[what] = now
        return True

    def frames_passed(self, interval: int) -> bool:
        """Whether the frames have passed a multiple of `interval` since the last call."""
        before, self._frames = self._frames, self._newest.steps * self._repeat
        return self._frames // interval > before // interval

    def row(self, state: Counters, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """The figures since the last row, with the keys of metrics.jsonl."""
        now = self._spent._replace(loop=time.perf_counter() - self._began)
        elapsed = max(now.loop - self._row_spent.loop, 1e-9)
        lags = self._lags or [0]
        shares = TimeShares.between(self._row_spent, now)
        row: dict[str, float] = {
            "updates": state.updates,
            "frames": state.steps * self._repeat,
            "steps": state.steps,
            "seconds": self.seconds,
            "frames_per_second": (state.steps - self._row_steps) * self._repeat / elapsed,
            "policy_lag_min": min(lags),
            "policy_lag_mean": sum(lags) / len(lags),
            "policy_lag_max": max(lags),
            "updates_refused": state.refused,
        }
        row |= {f"time/{name}": share for name, share in shares._asdict().items()}
        row |= {key: float(value) for key, value in losses.items()}
        self._begin_row(state)
        return row

    def _begin_row(self, state: Counters) -> None:
        self._row_spent = self._spent._replace(loop=time.perf_counter() - self._began)
        self._row_steps = state.steps
        self._lags: list[int] = []
