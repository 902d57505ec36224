"""Plays a few random steps of a task and describes what was observed, before anything is trained on it."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np

from envs.engines.foreign_code import quiet
from envs.instructions import UNKNOWN
from envs.spec import EnvSpec, Slot, Split
from envs.suite import EnvConfig
from envs.suites import get_suite
from envs.vector import MultitaskVectorEnv
from system.words import count

STEPS = 20
_MOST_DIFFERENCES = 3


class Trial(NamedTuple):
    """The result of playing a task: a short description of what was seen, and the exception in one line.

    `differences` are the first violations of its spaces, and numbers that are not finite.
    """

    task: str
    seen: str = ""
    differences: tuple[str, ...] = ()
    failure: str = ""


def try_task(config: EnvConfig, spec: EnvSpec, task: int) -> Trial:
    """Plays STEPS random legal actions of a task (id), the same in every call. Raises nothing."""
    # A dict keeps the order and drops repetitions.
    found: dict[str, None] = {}
    slots, suite = [Slot(task=task, index=0)], get_suite(config.name)
    seen = failure = ""
    try:
        with quiet():
            if suite.make_checked_engine and not getattr(config, "processes", False):
                engine = suite.make_checked_engine(config, spec, slots, Split.TRAIN, found.setdefault)
            else:
                engine = suite.make_engine(config, spec, slots, Split.TRAIN)
            with contextlib.closing(MultitaskVectorEnv(engine, spec, slots, 0)) as env:
                seen = _play(env, task, found)
    except Exception as error:
        # The last line of a traceback names the error; an InputError has one line.
        failure = str(error).strip().rpartition("\n")[2] or type(error).__name__
    return Trial(spec.tasks[task], seen, tuple(found)[:_MOST_DIFFERENCES], failure)


def _play(env: MultitaskVectorEnv, task: int, found: dict[str, None]) -> str:
    """Plays STEPS steps. Returns a description; adds numbers that are not finite to `found`."""
    spec = env.spec_of_suite
    env.single_action_space.seed(0)
    observation, _ = env.reset()
    frames, rewards, ends = [{key: np.array(value[0]) for key, value in observation.items()}], [], 0
    for _ in range(STEPS):
        observation, reward, terminated, truncated, _ = env.step(env.sample_actions(observation))
        frames.append({key: np.array(value[0]) for key, value in observation.items()})
        rewards.append(float(reward[0]))
        ends += bool(terminated[0] or truncated[0])
    shown = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
    parts = [f"{STEPS} steps, {count(ends, 'episode')} ended"]
    for key in ("image", "vector", "context"):
        if key in shown:
            array = shown[key]
            if not np.isfinite(array).all():
                found.setdefault(f"{key} holds numbers that are not finite")
            parts.append(f"{key} {list(array.shape[1:])} from {np.nanmin(array):.4g} to {np.nanmax(array):.4g}")
    if not np.isfinite(rewards).all():
        found.setdefault("a reward is not finite")
    parts.append(f"rewards from {min(rewards):.4g} to {max(rewards):.4g}")
    if "action_mask" in shown:
        legal = shown["action_mask"].sum(axis=1)
        choices = spec.action_counts[task] if spec.action_kind == "discrete" else spec.num_actions
        parts.append(f"{legal.min()} to {legal.max()} of {count(choices, 'choice')} legal")
    if "instruction" in shown:
        text = " ".join(spec.vocabulary[token] for token in shown["instruction"][0] if token)
        unknown = (shown["instruction"] == UNKNOWN).sum()
        parts.append(
            (f'instruction "{text}"' if text else "no instruction")
            + (f", {count(unknown, 'unknown word')}" if unknown else "")
        )
    return "; ".join(parts)
