"""A few steps of a task, to see what it shows before anything is trained on it."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.spec import EnvSpec, Slot, Split
from envs.suite import EnvConfig
from envs.suites import get_suite, make_env
from envs.vector import MultitaskVectorEnv

STEPS = 20
_MOST_DIFFERENCES = 3


class Trial(NamedTuple):
    """What was seen of a task.

    Attributes:
        task: its name.
        seen: in a few words.
        differences: from its spaces, or numbers that are not finite; the first few.
        failure: what was raised, in one line; empty for nothing.
    """

    task: str
    seen: str = ""
    differences: tuple[str, ...] = ()
    failure: str = ""


def try_task(config: EnvConfig, spec: EnvSpec, task: int) -> Trial:
    """Plays STEPS random legal actions of a task (id), always the same. Raises nothing."""
    found: dict[str, None] = {}
    seat = [Slot(task=task, index=0)]
    watched = None if getattr(config, "processes", False) else get_suite(config.name).make_watched
    try:
        # An environment may print, or leave the working directory.
        with contextlib.redirect_stdout(sys.stderr), contextlib.chdir("."):
            if watched:
                env = watched(config, spec, seat, 0, Split.TRAIN, found.setdefault)
            else:
                env = make_env(config, spec, seat, 0, Split.TRAIN)
            with contextlib.closing(env):
                seen = _play(env, task, found)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        # The last line of a traceback is what it is about, and an InputError has one line.
        reason = lines[-1] or type(error).__name__
        return Trial(spec.tasks[task], "", tuple(found)[:_MOST_DIFFERENCES], reason)
    return Trial(spec.tasks[task], seen, tuple(found)[:_MOST_DIFFERENCES])


def _play(env: MultitaskVectorEnv, task: int, found: dict[str, None]) -> str:
    """Returns what was seen; adds what does not agree with the spaces of the suite."""
    spec, rng = env.spec_of_suite, np.random.default_rng(0)
    env.single_action_space.seed(0)
    observation, _ = env.reset()
    shown = [{key: np.array(value[0]) for key, value in observation.items()}]
    rewards, ends = [], 0
    for _ in range(STEPS):
        observation, reward, terminated, truncated, _ = env.step(_action(env, task, shown[-1], rng))
        shown.append({key: np.array(value[0]) for key, value in observation.items()})
        rewards.append(float(reward[0]))
        ends += bool(terminated[0] or truncated[0])
    words = [f"{STEPS} steps, {ends} episode{'' if ends == 1 else 's'} ended"]
    for key in ("image", "vector"):
        if key in shown[0]:
            array = np.stack([one[key] for one in shown])
            if not np.isfinite(array).all():
                found.setdefault(f"{key} holds numbers that are not finite")
            words.append(f"{key} {list(array.shape[1:])} from {np.nanmin(array):.4g} to {np.nanmax(array):.4g}")
    if not np.isfinite(rewards).all():
        found.setdefault("a reward is not finite")
    words.append(f"rewards from {min(rewards):.4g} to {max(rewards):.4g}")
    if "action_mask" in shown[0]:
        legal = [int(one["action_mask"].sum()) for one in shown]
        count = spec.action_counts[task] if spec.action_kind == "discrete" else spec.num_actions
        words.append(f"{min(legal)} to {max(legal)} of {count} choices legal")
    if "instruction" in shown[0]:
        tokens = shown[0]["instruction"]
        told = " ".join(spec.vocabulary[token] for token in tokens if token)
        unknown = int(np.sum([one["instruction"] == 1 for one in shown]))
        words.append((f'told "{told}"' if told else "told nothing") + (f", {unknown} unknown words" if unknown else ""))
    return "; ".join(words)


def _action(env: MultitaskVectorEnv, task: int, shown: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """A random legal action [1, ...]."""
    spec = env.spec_of_suite
    if spec.action_kind == "continuous":
        return np.asarray(env.single_action_space.sample())[None]
    legal = shown.get("action_mask", np.ones(spec.num_actions, np.bool_))
    if spec.action_kind == "discrete":
        # The mask of a step lies within the actions of the task.
        return np.array([rng.choice(np.flatnonzero(legal[: spec.action_counts[task]]))])
    parts = np.split(legal, np.cumsum(spec.action_sizes)[:-1])
    return np.array([[rng.choice(np.flatnonzero(part)) for part in parts]])
