"""Time and rates of a run: what is due, how fast it goes, how old the weights are that actors use."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor

from agents.learner import LearnerState
from agents.runtime.base import Batch

_WARM_UP_UPDATES = 20
"""Updates before `steady_frames_per_second` begins to count: processes start and caches fill."""


class Clock:
    """Counts between log steps.

    Args:
        seconds: that the run has taken before, in earlier processes.
        state: counters at the start.
        action_repeat: frames per step.
        num_actors: for the actors' time shares.
    """

    def __init__(self, seconds: float, state: LearnerState, *, action_repeat: int, num_actors: int) -> None:
        self._earlier = seconds
        self._began = time.perf_counter()
        self._repeat = action_repeat
        self._num_actors = num_actors
        self._due: dict[str, float] = {}
        self._first_updates = state.updates
        self._warm: tuple[float, int] | None = None
        self._steps = state.steps
        self._begin_row(state)

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between its processes."""
        return self._earlier + time.perf_counter() - self._began

    @property
    def steady_frames_per_second(self) -> float:
        """Since the warm-up; 0 when the run ended within it."""
        if self._warm is None:
            return 0.0
        began, steps = self._warm
        return (self._steps - steps) * self._repeat / max(time.perf_counter() - began, 1e-9)

    def tick(self, batch: Batch, before: int, state: LearnerState) -> None:
        """Takes in one update. `before` is the number of updates whose weights the learner had when it took the batch."""
        self._steps = state.steps
        self._lags += [before - version for version in batch.weights_versions]
        self._wait += batch.wait_seconds
        self._env += batch.env_seconds
        self._inference += batch.inference_seconds
        if self._warm is None and state.updates >= self._first_updates + _WARM_UP_UPDATES:
            self._warm = (time.perf_counter(), state.steps)

    def due(self, what: str, interval: float) -> bool:
        """Whether `interval` seconds have passed since this was last true for `what` (or since the start)."""
        now = time.perf_counter()
        if now - self._due.setdefault(what, self._began) < interval:
            return False
        self._due[what] = now
        return True

    def row(self, state: LearnerState, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """The figures since the last row, named as in metrics.jsonl."""
        elapsed = max(time.perf_counter() - self._row_began, 1e-9)
        lags = self._lags or [0]
        actors_time = elapsed * self._num_actors
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
            "time/env": self._env / actors_time,
            "time/inference": self._inference / actors_time,
            "time/learner": max(0.0, 1 - self._wait / elapsed),
            "time/wait": min(1.0, self._wait / elapsed),
        }
        row |= {key: float(value) for key, value in losses.items()}
        self._begin_row(state)
        return row

    def _begin_row(self, state: LearnerState) -> None:
        self._row_began, self._row_steps = time.perf_counter(), state.steps
        self._wait = self._env = self._inference = 0.0
        self._lags: list[int] = []
