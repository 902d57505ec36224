"""Configurations and environments of the suite `gymnasium` for tests."""

from __future__ import annotations

from typing import Any

from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.spec import Slot, Split
from envs.suites import make_env, make_spec
from envs.vector import MultitaskVectorEnv


def config(*tasks: str, **options: Any) -> GymnasiumConfig:
    """The config of tasks of tests/gym_tasks.py, or of gymnasium's own with `-v1`."""
    names = [task if "-v1" in task else f"gym_tasks:{task}" for task in tasks]
    return GymnasiumConfig(tasks=names, **options)


def opened(settings: GymnasiumConfig, slots: int = 1) -> MultitaskVectorEnv:
    """The environment of that config; slots alternate between the tasks."""
    spec = make_spec(settings)
    seats = [Slot(task=n % len(spec.tasks), index=n // len(spec.tasks)) for n in range(slots)]
    return make_env(settings, spec, seats, 0, Split.TRAIN)


def bare(env: MultitaskVectorEnv, slot: int = 0) -> Any:
    """The environment that the user registered."""
    return env._engine._envs[slot].unwrapped  # type: ignore[attr-defined]
