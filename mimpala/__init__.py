"""The Python API: train, evaluate, load and export agents, and read metrics, from any folder, script or notebook (docs/python.md).

    result = mimpala.train(["total_frames=500000"])
    action = result.agent.act(observation, instruction="go to the red ball")

Importing this package imports neither torch nor the project's other packages.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimpala.location import use_own_packages
from mimpala.programs import refuse, run_program
from mimpala.results import LAST, Evaluation, Result, Run, checkpoint_of, read_metrics

if TYPE_CHECKING:
    from mimpala.agent import Agent
    from system.errors import InputError, RunError

__all__ = [
    "Agent",
    "Evaluation",
    "InputError",
    "Result",
    "RunError",
    "evaluate",
    "export",
    "load",
    "read_metrics",
    "train",
]


def load(
    run: Run, which: Run = LAST, *, allow: Sequence[str] = (), plugins: Sequence[str] = (), device: str = "cpu"
) -> Agent:
    """The agent of a run folder, of a checkpoint file, or of a folder that `mimpala export` has written.

    Args:
        which: `last`, `best`, or a checkpoint file.
        allow: Modules, files and folders that the agent's configuration may name (docs/security.md).
        plugins: Modules with the user's own parts that the agent needs (docs/extending.md).
        device: `cpu`, `cuda`, `cuda:N` or `auto`.

    Raises InputError if there is none or it cannot be used, and ImportError if another package `conf`, `envs` or `agents` is imported.
    """
    use_own_packages("mimpala.load")
    from mimpala.agent import load_agent

    return load_agent(run, which, allow=[*allow, *plugins], device=device)


def train(overrides: Sequence[str] = ()) -> Result:
    """Trains as `mimpala train <overrides>` does, in a child process, and waits for the end.

    Ctrl-C saves the run and then raises KeyboardInterrupt. Raises InputError for a mistake in the overrides, RunError if the run fails.
    """
    outcome = run_program("train", {"overrides": _listed(overrides)})
    return Result(Path(outcome["folder"]), outcome["allow"])


def evaluate(run: Run, overrides: Sequence[str] = (), *, which: Run = LAST, allow: Sequence[str] = ()) -> Evaluation:
    """Evaluates as `mimpala evaluate <overrides>` does, in a child process, and waits for the end.

    `run`, `which` and `allow` are as for `load`; `overrides` as `["episodes=200", "plugins=[my_parts]"]`. Raises as `train`.
    """
    request = {"overrides": _listed(overrides), "run": checkpoint_of(run, which), "allow": list(allow)}
    return Evaluation(Path(run_program("evaluate", request)["path"]))


def export(run: Run, output: Run, *, which: Run = LAST, allow: Sequence[str] = (), plugins: Sequence[str] = ()) -> Path:
    """Writes an agent as `mimpala export` does, and returns the folder `output`.

    `run`, `which`, `allow` and `plugins` are as for `load`. Raises as `train`.
    """
    overrides = [f"output={os.fspath(output)}"]
    request = {"overrides": overrides, "run": checkpoint_of(run, which), "allow": [*allow, *plugins]}
    return Path(run_program("export", request)["path"])


def _listed(overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise refuse(f'overrides={overrides!r} is no list of texts: give ["key=value", ...].')
    return list(overrides)


def __getattr__(name: str) -> Any:
    """`Agent`, `InputError` and `RunError`, whose modules import the project's other packages."""
    if name == "Agent":
        use_own_packages("mimpala.Agent")
        from mimpala.agent import Agent

        return Agent
    if name in ("InputError", "RunError"):
        use_own_packages(f"mimpala.{name}", ["system"])
        from system import errors

        return getattr(errors, name)
    raise AttributeError(f"module mimpala has no attribute {name}")
