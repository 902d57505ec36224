"""Checks the results of an environment's `reset` and `step` against gymnasium's interface."""

from __future__ import annotations

import inspect
import traceback
from typing import Any, NoReturn

import gymnasium
import numpy as np
from numpy.typing import NDArray

from system.errors import InputError
from system.words import count

API = "reset(seed=, options=) -> (observation, info) and step(action) -> (observation, reward, terminated, truncated, info)"


def check_reset(task: str, returned: Any) -> tuple[Any, dict[str, Any]]:
    """(observation, info) of the result of `reset`; InputError for another result. An info of None becomes {}."""
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict | None)):
        _refuse(task, "returns from reset an observation without an info")
    return returned[0], returned[1] or {}


def check_step(task: str, returned: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """The five results of `step`, the reward as float and the ends as bool, or InputError. Arrays of one element are accepted."""
    if not isinstance(returned, tuple | list) or len(returned) != 5:
        many = f"{count(len(returned), 'value')}" if isinstance(returned, tuple | list) else type(returned).__name__
        _refuse(task, f"returns from step {many} instead of 5")
    seen, reward, terminated, truncated, info = returned
    reward = _single(task, "reward", reward, float)
    terminated, truncated = _single(task, "terminated", terminated, bool), _single(task, "truncated", truncated, bool)
    return seen, reward, terminated, truncated, info if isinstance(info, dict) else {}


def as_array(value: Any) -> NDArray[Any]:
    """The value as an array; one of objects if it has no regular shape."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return np.empty((), object)


def _single(task: str, name: str, value: Any, kind: type) -> Any:
    if isinstance(value, kind):
        return value
    array = as_array(value)
    if array.size == 1 and array.dtype.kind in "iubf":
        return kind(array.item())
    found = f"an array {list(array.shape)}" if array.ndim else type(value).__name__
    raise InputError(
        f"env.tasks={task} returns from step {found} for {name}, which is one number: change it, or name a wrapper in env.wrappers "
        "that does."
    )


def raise_if_outdated(task: str, env: Any, error: Exception) -> None:
    """InputError if `error`, which `reset` or `step` raised, shows that the environment, here without wrappers, has another interface."""
    text = str(error)
    if isinstance(error, ValueError):
        # Wrappers unpack results of `reset` and `step`; an environment may unpack anything.
        if "unpack" in text and "expected 5" in text and _by_a_wrapper(error):
            _refuse(task, "does not return 5 values from step")
        if "unpack" in text and "expected 2" in text and _by_a_wrapper(error):
            _refuse(task, "returns from reset an observation without an info")
        return
    lacking = [name for name in ("seed", "options") if name in text and not _takes(env.reset, name)]
    if "unexpected keyword" in text and lacking:
        _refuse(task, f"takes no {lacking[0]} in reset")


def _by_a_wrapper(error: Exception) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(frames[-1].f_locals.get("self"), gymnasium.Wrapper)


def _takes(method: Any, name: str) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(one.name == name or one.kind is one.VAR_KEYWORD for one in parameters)


def _refuse(task: str, how: str) -> NoReturn:
    raise InputError(
        f"env.tasks={task} {how}, as environments for gym before 0.26 do, and gymnasium's interface is {API}: change it, or register it "
        "in a wrapper such as shimmy's GymV21CompatibilityV0."
    )


def one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__
