"""Time and rates of a run: intervals, frames per second, time shares, and the policy lag."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

from agents.learning.learner import Counters
from agents.run.bottleneck import TimeShares, Totals
from agents.runtime.base import Batch

_WARM_UP_UPDATES = 20
"""Updates before `steady_frames_per_second` and `shares` start: until then processes start and caches fill."""


class Clock:
    """Measures time, speed and policy lag, in total and since the last log step.

    Earlier processes took `seconds`; `state` holds the counters at the start of this one.
    """

    def __init__(self, seconds: float, state: Counters, *, action_repeat: int) -> None:
        self._earlier = seconds
        self._began = time.perf_counter()
        self._repeat = action_repeat
        self._due: dict[str, float] = {}
        self._first_updates = state.updates
        self._frames: float = state.steps * action_repeat
        self._totals = self._newest = self._row_start = Totals(steps=state.steps)
        self._warm: Totals | None = None
        self._lags: list[int] = []

    @property
    def seconds(self) -> float:
        """Seconds of the run in all of its processes, without the time between them."""
        return self._earlier + time.perf_counter() - self._began

    @property
    def steady_frames_per_second(self) -> float:
        """Frames per second after the warm-up; 0 during it."""
        if self._warm is None:
            return 0.0
        seconds = self._newest.loop - self._warm.loop
        return (self._newest.steps - self._warm.steps) * self._repeat / max(seconds, 1e-9)

    @property
    def shares(self) -> TimeShares | None:
        """Time shares from the warm-up to the newest update; None during the warm-up."""
        if self._warm is None or self._warm is self._newest:
            return None
        return TimeShares.between(self._warm, self._newest)

    @contextlib.contextmanager
    def disk(self) -> Iterator[None]:
        """Counts the time of its body as time of the disk."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._totals = self._totals._replace(disk=self._totals.disk + time.perf_counter() - began)

    def count_batch(self, batch: Batch, before: Sequence[int], state: Counters) -> None:
        """Counts the updates of one batch; `before` is the number of updates before each of them, `state` the counters after the batch.

        The policy lag of an update is the number of updates between the weights that acted and the weights that it changes. Every
        update has columns of every unroll of its batch, because a batch joins several unrolls or is one unroll (agents.setup.plan).
        """
        self._lags += [made - version for made in before for version in batch.weights_versions]
        before_batch = self._totals
        self._totals = self._newest = before_batch._replace(
            loop=time.perf_counter() - self._began,
            wait=before_batch.wait + batch.wait_seconds,
            actors=before_batch.actors + batch.actor_seconds,
            env=before_batch.env + batch.env_seconds,
            inference=before_batch.inference + batch.inference_seconds,
            actor_wait=before_batch.actor_wait + batch.actor_wait_seconds,
            steps=state.steps,
        )
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

    def row(self, state: Counters, losses: Mapping[str, float]) -> dict[str, float]:
        """The figures since the last row, with the keys of metrics.jsonl."""
        now = self._totals._replace(loop=time.perf_counter() - self._began, steps=state.steps)
        start, self._row_start = self._row_start, now
        lags, self._lags = self._lags or [0], []
        row: dict[str, float] = {
            "updates": state.updates,
            "frames": state.steps * self._repeat,
            "steps": state.steps,
            "seconds": self.seconds,
            "frames_per_second": (now.steps - start.steps) * self._repeat / max(now.loop - start.loop, 1e-9),
            "policy_lag_min": min(lags),
            "policy_lag_mean": sum(lags) / len(lags),
            "policy_lag_max": max(lags),
            "updates_refused": state.refused,
        }
        row |= {f"time/{name}": share for name, share in TimeShares.between(start, now)._asdict().items()}
        return row | dict(losses)
