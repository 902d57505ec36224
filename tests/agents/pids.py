"""An environment that shows in which process it lives. Without torch, because the processes of slots import this module."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np


class Pid(gymnasium.Env[dict[str, Any], Any]):
    """Endless, and fits counting.COUNTING: (process, 0, 0)."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._see(), 0.0, False, False, {}

    def _see(self) -> dict[str, Any]:
        return {"vector": np.array([os.getpid(), 0, 0], np.float32), "instruction": ""}


def make_pid(task: str) -> Pid:
    return Pid()
