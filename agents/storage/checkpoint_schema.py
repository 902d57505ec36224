"""Types and ranges of a checkpoint's values, checked once, when it is read.

An intact file may still be crafted, because its author can write a valid checksum. Shapes are compared by their users (Learner, Actor,
agents/evaluation/episodes.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from system.plain_data import COUNT, FINITE, NUMBER, SECONDS, Test


def _is_state_of_runtime(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    actors, turn = value.get("actors"), value.get("turn", -1)
    return isinstance(actors, list) and COUNT.passes(turn) and turn < max(1, len(actors))


_MOST_LENGTH, _MOST_ELEMENTS, _MOST_CODES = 2**16, 2**26, 2**20
"""Far more than any suite has: the length of an instruction or the number of actions, elements of an observation, and combinations of the
codes of a cell. An agent that is loaded without its suite allocates such sizes.
"""


def _counts_up_to(most: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list | tuple)
        and all(map(COUNT.passes, value))
        and math.prod(max(1, count) for count in value) <= most
    )


_LENGTH = Test("a length", lambda value: COUNT.passes(value) and value <= _MOST_LENGTH)
_SHAPE = Test("a shape", _counts_up_to(_MOST_ELEMENTS))
_CODES = Test("numbers of codes", _counts_up_to(_MOST_CODES))
_DTYPE = Test("a type of observations", lambda value: value in ("uint8", "float32", "bool"))
_REPEAT = Test("a count above zero", lambda value: COUNT.passes(value) and value > 0)
_WEIGHTS = Test(
    "a tensor of finite numbers", lambda value: isinstance(value, Tensor) and bool(torch.isfinite(value).all())
)
_RUNTIME = Test("the state of a runtime", _is_state_of_runtime)

FORM: dict[str, Any] = {
    "env": {
        "suite": str,
        "engine": str,
        "image_kind": str,
        "tasks": [str],
        "vocabulary": [str],
        "instruction_length": _LENGTH,
        "num_actions": _LENGTH,
        "action_repeat": _REPEAT,
        "action_counts": [COUNT],
        "action_sizes": [_LENGTH],
        "symbol_counts": _CODES,
        "action_low": [FINITE],
        "action_high": [FINITE],
        "slow": bool,
        "has_success": bool,
        "switches_tasks": bool,
        "frame_rates": {str: FINITE},
        "observation": {str: {"shape": _SHAPE, "dtype": _DTYPE}},
        "scores": {str: {"random": FINITE, "human": FINITE, "reference": str}},
    },
    "learner": {
        "network": {str: _WEIGHTS},
        "optimizer": {"state": {int: {str: _WEIGHTS}}},
        "popart": {"mu": _WEIGHTS, "nu": _WEIGHTS, "calm": _WEIGHTS, "updates": _WEIGHTS},
        "counters": {str: COUNT},
    },
    "positions": {"unrolls": {int: COUNT}, "episodes": {int: [COUNT]}},
    "statistics": {
        str: {
            "steps": COUNT,
            "episodes": COUNT,
            "interrupted": COUNT,
            "updates": COUNT,
            "surges": COUNT,
            "recent": [(NUMBER, NUMBER, COUNT)],
        }
    },
    "faults": {"unrolls_dropped": COUNT, "episodes_dropped": COUNT, "causes": {str: COUNT}, "tasks": {str: COUNT}},
    "runtime": _RUNTIME,
    "rng": Tensor,
    "seconds": SECONDS,
    "versions": {str: str},
}
KEPT_FORM = {"best": dict, "milestones": [COUNT], "frames": COUNT}
BEST_FORM = {"updates": COUNT, "episodes": COUNT, "value": float}
