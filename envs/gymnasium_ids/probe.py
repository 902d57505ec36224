"""A reset and a step of each task before anything is started, so that an environment that breaks its promises is told in one sentence."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
from numpy.typing import NDArray

from envs.engines.gymnasium_engine import GymnasiumEngine, MakeEnv
from envs.engines.process_engine import ProcessEngine, SlotError
from envs.gymnasium_adapter.api import API, one_line
from envs.spec import EnvSpec, Slot, Split
from system.errors import InputError

_TRIES = 3
"""An environment that fails so often, each time from another seed, is not unlucky."""

_AT_ONCE = 8
"""Processes."""

_HANG_SECONDS = 120.0
"""So long a process is waited for."""

_probed: set[str] = set()
"""Keys of what was found right in this process: a grid of runs describes the same suite often."""


def probe(make: MakeEnv, spec: EnvSpec, *, processes: bool, key: str) -> None:
    """Plays the first step of an episode of every task.

    Args:
        make: see `envs.engines.gymnasium_engine.GymnasiumEngine`.
        processes: whether environments are to be played in processes of their own. Those that crash or hang are left to the run, which
            starts them anew.
        key: names what is probed; the same is not probed twice.

    Raises:
        InputError: an environment breaks its promises, or fails three times out of three.
    """
    if key in _probed:
        return
    size = _AT_ONCE if processes else 1
    for first in range(0, len(spec.tasks), size):
        slots = [Slot(task=task, index=0) for task in range(first, min(first + size, len(spec.tasks)))]
        failures: list[tuple[str, str]] = []
        while len(failures) < _TRIES and (failed := _play(make, spec, slots, processes, len(failures))):
            failures.append(failed)
        if len(failures) == _TRIES:
            task, reason = failures[-1]
            raise InputError(
                f"env.tasks={task} fails at its first reset or step, {_TRIES} times out of {_TRIES} ({reason}): mend it, or leave it out; "
                f"its interface is gymnasium's, {API}."
            )
    _probed.add(key)


def _play(make: MakeEnv, spec: EnvSpec, slots: list[Slot], processes: bool, seed: int) -> tuple[str, str] | None:
    """The task that failed and how, or None."""
    engine: GymnasiumEngine | ProcessEngine | None = None
    task = spec.tasks[slots[0].task]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if processes:
                engine = ProcessEngine(make, spec, slots, Split.TRAIN, hang_seconds=_HANG_SECONDS)
            else:
                engine = GymnasiumEngine(make, spec, slots, Split.TRAIN)
            engine.start(seed)
            engine.step(_actions(spec, engine.observation, len(slots)))
        except InputError:
            raise
        except SlotError as error:
            if error.cause == "raised":
                return error.task, str(error).strip().splitlines()[-1]
        except Exception as error:
            return task, one_line(error)
        finally:
            if engine is not None:
                engine.close()
    return None


def _actions(spec: EnvSpec, observation: dict[str, NDArray[np.generic]], slots: int) -> NDArray[np.generic]:
    """One action for each slot: the first of a choice that is legal, the middle of a range."""
    if spec.action_kind == "continuous":
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        return np.tile((low + high) / 2, (slots, 1)).astype(np.float32)
    actions = np.zeros((slots, *spec.action.shape), np.int32)
    if "action_mask" in observation:
        sizes = spec.action_sizes or (spec.num_actions,)
        legal = np.split(observation["action_mask"], np.cumsum(sizes)[:-1], axis=1)
        actions[:] = np.stack([one.argmax(axis=1) for one in legal], axis=1).reshape(actions.shape)
    return actions
