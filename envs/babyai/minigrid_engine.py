"""BabyAI on the original Python package `minigrid`: one environment object per slot."""

from __future__ import annotations

from typing import Any

import gymnasium

from envs.babyai import levels
from envs.engines.foreign_code import explain_failed_import
from system.errors import InputError


def registered_levels() -> list[str]:
    """Every id that gymnasium knows after the import of minigrid, those of other packages included."""
    with explain_failed_import("minigrid"):
        import minigrid  # noqa: F401  (registers its levels)

    return list(gymnasium.registry)


def make_level(level: str) -> gymnasium.Env[dict[str, Any], int]:
    """One bare environment of that level, quiet."""
    with explain_failed_import("minigrid"):
        import minigrid  # noqa: F401
        from minigrid.envs.babyai.core import roomgrid_level

    # Level generation prints every rejected sample. Redirecting stdout would also swallow what other threads (the progress display) print,
    # so `print` is replaced in this one module.
    vars(roomgrid_level)["print"] = lambda *_: None
    # Without gymnasium's wrappers: minigrid has its own time limit, and the checker costs as much as a small step.
    env = gymnasium.make(level, disable_env_checker=True, render_mode="rgb_array").unwrapped
    image = env.observation_space["image"]  # type: ignore[index]
    if image.shape != levels.IMAGE_SHAPE:
        raise InputError(f"env.tasks={level} shows images {image.shape}, not {levels.IMAGE_SHAPE}: leave it out.")
    return env
