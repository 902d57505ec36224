"""An environment whose observations hold its process id. Without torch, because the processes of slots import this module."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np


class Pid(gymnasium.Env[dict[str, Any], Any]):
    """An endless episode with the observation (process id, 0, 0), as counting.COUNTING specifies."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._see(), 0.0, False, False, {}

    def _see(self) -> dict[str, Any]:
        return {"vector": np.array([os.getpid(), 0, 0], np.float32), "instruction": ""}


def make_pid(task: str) -> Pid:
    return Pid()
