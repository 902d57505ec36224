"""The folder of a run: what is in it, who may write to it, and how a run is found again."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from agents.bottleneck import Verdict
from agents.checkpoint import env_from_dict, env_to_dict, list_checkpoints, load_checkpoint
from agents.clock import Clock
from agents.files import check_links, write_json
from agents.learner import Learner
from agents.metrics import Statistics, mean_over_tasks, scores_of_suite
from agents.network.actions import action_distribution
from agents.network.agent import AgentNetwork
from agents.network.cost import MultiplyAdds
from agents.runtime.base import Positions
from conf.loading import flatten, load_train, save_train, to_dict, train_from_dict
from conf.named import check_named, named
from conf.schema import MAY_CHANGE_ON_RESUME, TrainConfig
from envs.errors import InputError
from envs.spec import EnvSpec

AGENT, CONFIG, CHECKPOINTS, RESULT, PROVENANCE, VOCABULARY = (
    "agent.json",
    "config.yaml",
    "checkpoints",
    "result.json",
    "provenance.json",
    "vocabulary.json",
)


def default_run(config: TrainConfig) -> str:
    """Name of the run folder when none is given: by content, never by clock, so that a repetition is noticed."""
    return f"runs/{config.env.name}-{config.fusion.name}-{config.context.name}-seed{config.seed}"


def resumed_config(config: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """The configuration of the run in `config.run`, with the keys of `given` that may change on resume.

    Args:
        config: from the command line.
        given: dotted keys that the command line sets (conf.loading.changed_keys).

    Raises:
        InputError: `given` asks for another experiment, with both values of each key.
    """
    folder = Path(config.run)
    saved = load_train(folder / CONFIG)
    tree, wanted = to_dict(saved), flatten(to_dict(config))
    known = flatten(tree)
    different = {
        key: wanted[key] for key in given if key not in MAY_CHANGE_ON_RESUME and known.get(key) != wanted.get(key)
    }
    if different:
        listed = ", ".join(f"{key}={value} (the run has {known.get(key)})" for key, value in different.items())
        raise InputError(f"resume=true cannot change {listed}: leave these keys out, or start another run.")
    for key in given:
        if key in MAY_CHANGE_ON_RESUME:
            node = tree
            *path, leaf = key.split(".")
            for part in path:
                node = node[part]
            node[leaf] = wanted[key]
    tree["run"], tree["resume"], tree["allow"] = config.run, True, config.allow
    check_named(saved.env, [*config.allow, *named(config.env)], str(folder / CONFIG))
    return train_from_dict(tree, str(folder / CONFIG))


def write_agent(folder: Path, network: AgentNetwork, cost: MultiplyAdds) -> None:
    """The size of the agent, for comparisons at equal cost."""
    write_json(folder / AGENT, {"parameters": network.num_parameters, "multiply_adds": cost._asdict()})


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in this folder."""
    return (folder / CONFIG).exists()


def claim(config: TrainConfig, env: EnvSpec) -> Path:
    """Makes the folder and writes what is known at the start: config, provenance, vocabulary.

    Raises:
        InputError: the folder holds a run already and `resume` is off, or it cannot be written.
    """
    folder = Path(config.run)
    if holds_run(folder) and not config.resume:
        raise InputError(f"run={folder} already holds a run: add resume=true to go on with it, or give another run=.")
    check_links(folder)
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        # The config marks the folder as a run, so it comes last.
        write_json(folder / PROVENANCE, provenance())
        write_json(folder / VOCABULARY, {"tasks": list(env.tasks), "words": list(env.vocabulary)})
        save_train(config, folder / CONFIG)
    except OSError as error:
        raise InputError(f"run={folder} cannot be written ({error.strerror}): give another run=.") from error
    return folder


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Content of the newest checkpoint of a run, or None when it was killed before its first."""
    found = list_checkpoints(folder / CHECKPOINTS)
    return load_checkpoint(found[-1]) if found else None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """The final figures of a run."""
    write_json(folder / RESULT, result)


def result(
    learner: Learner, statistics: Statistics, clock: Clock, env: EnvSpec, verdict: Verdict, *, ended_by: str
) -> dict[str, Any]:
    """The figures of result.json: counters, steady speed, where the time went, parameters, and each task's last episodes.

    Speed and time shares are those after the warm-up; a run that ends within it has 0 and none. `ended_by` is `signal` for a run that
    was interrupted, else the key that ended it.
    """
    state, tasks = learner.state, statistics.summary(env.action_repeat)
    return {
        "finished": ended_by != "signal",
        "ended_by": ended_by,
        "updates": state.updates,
        "updates_refused": state.refused,
        "frames": state.steps * env.action_repeat,
        "steps": state.steps,
        "seconds": clock.seconds,
        "frames_per_second": clock.steady_frames_per_second,
        "time": clock.shares._asdict() if clock.shares else {},
        "limited_by": verdict.sentence,
        "parameters": learner.network.num_parameters,
        "tasks": tasks,
        "mean": mean_over_tasks(tasks),
        "score": scores_of_suite(tasks),
    }


def provenance() -> dict[str, Any]:
    """Where these results come from: command, code, versions, machine."""
    return {
        "command": sys.argv,
        "git": _git_state(),
        "versions": dict(versions()),
        "machine": {"platform": platform.platform(), "processor": _processor()},
    }


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of what decides the results."""
    found = {"python": platform.python_version()}
    for package in ("mimpala", "torch", "numpy", "gymnasium", "minigrid", "envpool", "ale-py", "vizdoom"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state() -> dict[str, Any]:
    """Commit of the code and whether it was changed since; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())} if commit.returncode == 0 else {}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def snapshot(
    config: TrainConfig,
    env: EnvSpec,
    learner: Learner,
    statistics: Statistics,
    positions: Positions,
    seconds: float,
    *,
    runtime: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of a checkpoint: everything that `restore` and evaluation need, as tensors and plain data. `runtime` is its `state_dict`."""
    return {
        "config": to_dict(config),
        "env": env_to_dict(env),
        "learner": learner.state_dict(),
        "positions": {"unrolls": dict(positions.unrolls), "episodes": dict(positions.episodes)},
        "runtime": runtime,
        "statistics": statistics.state_dict(),
        "rng": torch.get_rng_state(),
        "seconds": seconds,
        "versions": dict(versions()),
    }


def restore(
    content: dict[str, Any], env: EnvSpec, learner: Learner, statistics: Statistics, positions: Positions
) -> float:
    """Puts a checkpoint's content back in place and returns the seconds that the run has taken.

    Raises:
        InputError: the environments are not those that the checkpoint was trained on.
    """
    saved = env_from_dict(content["env"])
    if (
        saved.tasks != env.tasks
        or saved.vocabulary != env.vocabulary
        or action_distribution(saved) != action_distribution(env)
    ):
        raise InputError(
            f"resume=true: the checkpoint was trained on tasks {list(saved.tasks)} with {len(saved.vocabulary)} words and "
            f"{saved.num_actions} actions ({saved.action_kind}), which this installation gives differently: use the versions "
            f"{content['versions']}."
        )
    try:
        learner.load_state_dict(content["learner"])
        statistics.load_state_dict(content["statistics"])
        positions.unrolls.update(content["positions"]["unrolls"])
        positions.episodes.update(content["positions"]["episodes"])
        positions.steps.update(enumerate(task.steps for task in statistics.tasks.values()))
        torch.set_rng_state(content["rng"])
        return float(content["seconds"])
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"resume=true: the checkpoint does not fit its configuration ({reason}): use an earlier one."
        ) from error
