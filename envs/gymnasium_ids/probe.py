"""Resets and steps each task once before a run starts, to report an environment that violates its interface in one sentence."""

from __future__ import annotations

import contextlib

from envs.engines.base import Engine
from envs.engines.foreign_code import quiet
from envs.engines.gymnasium_engine import GymnasiumEngine, MakeEnv
from envs.engines.process_engine import ProcessEngine
from envs.engines.slot_process import SlotError
from envs.gymnasium_adapter.api import API, one_line
from envs.spec import EnvSpec, Slot, Split
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

_TRIES = 3
"""Failures, each with another seed, after which an environment is refused."""

_AT_ONCE = 8
"""Maximum number of processes at a time."""

_HANG_SECONDS = 120.0
"""Time after which a process counts as hung."""

_probed: set[str] = set()
"""Keys of successful probes in this process. A grid of runs describes the same suite often."""


def probe(make: MakeEnv, spec: EnvSpec, *, processes: bool, key: str) -> None:
    """Plays the first step of an episode of every task. A `key`, for a suite and its options, is probed only once per process.

    With `processes`, crashes and hangs are ignored, because the run restarts the process. InputError if an environment violates its
    interface, or fails three times out of three.
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
                f"env.tasks={task} fails at its first reset or step, {_TRIES} times out of {_TRIES} ({reason}): correct it "
                f"or leave it out; its interface is gymnasium's, {API}."
            )
    _probed.add(key)


def _play(make: MakeEnv, spec: EnvSpec, slots: list[Slot], processes: bool, seed: int) -> tuple[str, str] | None:
    """The task that failed and the reason, or None."""
    with quiet():
        try:
            engine: Engine
            if processes:
                engine = ProcessEngine(make, spec, slots, Split.TRAIN, hang_seconds=_HANG_SECONDS)
            else:
                engine = GymnasiumEngine(make, spec, slots, Split.TRAIN)
            with contextlib.closing(MultitaskVectorEnv(engine, spec, slots, seed)) as env:
                env.single_action_space.seed(seed)
                observation, _ = env.reset()
                env.step(env.sample_actions(observation))
        except InputError:
            raise
        except SlotError as error:
            if error.cause == "raised":
                return error.task, str(error).strip().splitlines()[-1]
        except Exception as error:
            return spec.tasks[slots[0].task], one_line(error)
    return None
