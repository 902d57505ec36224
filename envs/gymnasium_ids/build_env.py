"""Builds one environment of the suite `gymnasium`: imports its module and its wrappers, and calls `gymnasium.make`."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from envs.gymnasium_adapter.api import one_line
from envs.gymnasium_ids.tasks import parse_task
from system.errors import InputError

REFUSED_WRAPPERS = {
    NormalizeObservation: "set env.normalize_observation=true",
    NormalizeReward: "let PopArt find the scale of the rewards (learner.popart=true), or bound them by learner.reward_transform",
}
"""Wrappers that are refused, with their subclasses, and the alternative. Their moments differ between environments, and start from scratch
at every restart, resume and evaluation.
"""


def build_env(task: str, options: dict[str, Any], wrapper_names: Sequence[str]) -> gymnasium.Env[Any, Any]:
    """One environment of a task in its wrappers. What it prints goes to standard error.

    InputError if the module, the environment or a wrapper cannot be made, or one of REFUSED_WRAPPERS is among them.
    """
    # Redirected, not swallowed: another thread may write to the terminal meanwhile.
    with contextlib.redirect_stdout(sys.stderr):
        wrappers = [_load_wrapper(name) for name in wrapper_names]
        try:
            env = _make_bare(task, options)
        except Exception as error:
            raise InputError(
                f"env.tasks={task} cannot be made ({one_line(error)}): look at its name, whether its package is installed, and env.options."
            ) from error
        _check_moments(env, f"env.tasks={task}")
        for name, wrapper in zip(wrapper_names, wrappers, strict=True):
            try:
                env = wrapper(env)
            except Exception as error:
                raise InputError(
                    f"env.wrappers={name} cannot be put around {task} ({one_line(error)}): leave one of them out."
                ) from error
            _check_moments(env, f"env.wrappers={name}")
    return env


def _check_moments(env: Any, named: str) -> None:
    """Raises InputError, and closes the environment, if it or anything inside it is one of REFUSED_WRAPPERS."""
    found, seen = [env], set()
    while found:
        inner = found.pop()
        if not isinstance(inner, gymnasium.Env) or id(inner) in seen:
            continue
        seen.add(id(inner))
        for refused, advice in REFUSED_WRAPPERS.items():
            if isinstance(inner, refused):
                env.close()
                raise InputError(
                    f"{named} normalises by {type(inner).__name__} of gymnasium, whose moments start from scratch in every environment, "
                    f"resume and evaluation: leave it out, and {advice}."
                )
        # The environment inside a wrapper, and environments inside others.
        found += vars(inner).values()


def _make_bare(task: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    module, name, own = parse_task(task)
    options = {**options, **own}
    if module:
        importlib.import_module(module)
    entry = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)
    # Without the checker, which costs as much per step as a small environment. `SuiteTask` and `probe` check what matters here.
    make = partial(gymnasium.make, name, disable_env_checker=True, **options)
    modes = metadata.get("render_modes") if isinstance(metadata, dict) else None
    if "rgb_array" in (modes or ()) and "render_mode" not in options:
        # Some declare rgb_array but refuse the argument, or lack what they draw with. They can still be played.
        with contextlib.suppress(Exception):
            return make(render_mode="rgb_array")
    return make()


def _load_wrapper(name: str) -> type[gymnasium.Wrapper[Any, Any, Any, Any]]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"env.wrappers={name} is no class: write package.module:Name.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise InputError(
            f"env.wrappers={name} cannot be imported ({one_line(error)}): look at its name and whether its package is installed."
        ) from error
    # Only subclasses of Wrapper are called. conf/allowlist.py has decided whether the module may be imported.
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        raise InputError(f"env.wrappers={name} is no subclass of gymnasium.Wrapper: name one that is.")
    return found
