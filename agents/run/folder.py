"""The folder of a run: what is in it, who may write to it, and how a run is found again."""

from __future__ import annotations

import contextlib
import functools
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from agents.cli.terminal import warn
from agents.learning.learner import Learner, NonFiniteError
from agents.learning.nonfinite import for_json
from agents.network.agent import AgentNetwork
from agents.network.flops import MultiplyAdds
from agents.run.bottleneck import Bottleneck
from agents.run.metrics import Statistics, mean_over_tasks, scores_of_suite
from agents.run.timing import Clock
from agents.runtime.base import StreamPositions
from agents.storage.checkpoint import CHECKPOINTS, env_from_dict, env_to_dict, list_checkpoints, newest_intact
from conf.allowlist import check_external_names, external_names
from conf.loading import flatten, load_train, save_train, to_dict, train_from_dict
from conf.schema import FORMER_VALUES, MAY_CHANGE_ON_RESUME, TrainConfig
from envs.spec import EnvSpec
from envs.spec_changes import interface_changes, listed, other_versions, task_changes
from system.errors import InputError
from system.files import read_json, write_json

AGENT, CONFIG, DIAGNOSIS, RESULT, PROVENANCE, VOCABULARY = (
    "agent.json",
    "config.yaml",
    "diagnosis.json",
    "result.json",
    "provenance.json",
    "vocabulary.json",
)


def default_run(config: TrainConfig) -> str:
    """Name of the run folder when none is given: by content, never by clock, so that a repetition is noticed."""
    return f"runs/{config.env.name}-{config.fusion.name}-{config.context.name}-seed{config.seed}"


def resumed_config(
    config: TrainConfig,
    given: dict[str, Any],
    explicit: Collection[str] = (),
    say: Callable[[str], object] = warn,
) -> TrainConfig:
    """The configuration of the run in `config.run`, with the keys of `given` that may change on resume.

    A run that was begun with an earlier version keeps what a preset gave then (conf.schema.FORMER_VALUES).

    Args:
        config: from the command line.
        given: dotted keys that the command line sets (conf.loading.changed_keys).
        explicit: those of them that it names itself (conf.loading.explicit_keys); a preset brings the others.
        say: is given a sentence about what the run keeps.

    Raises:
        InputError: `given` asks for another experiment, with both values of each key, several in lines of their own.
    """
    folder = Path(config.run)
    saved = load_train(folder / CONFIG)
    tree, wanted = to_dict(saved), flatten(to_dict(config))
    known = flatten(tree)
    different = {
        key: wanted[key] for key in given if key not in MAY_CHANGE_ON_RESUME and known.get(key) != wanted.get(key)
    }
    kept = {
        key: known[key]
        for key, value in different.items()
        if key not in explicit and key in FORMER_VALUES and FORMER_VALUES[key].get(value) == known.get(key)
    }
    for key, value in kept.items():
        say(f"resume=true keeps {key}={value} of this run: new runs have {different.pop(key)}.")
    if different:
        listed = [f"{key}={value} (the run has {known.get(key)})" for key, value in different.items()]
        if len(listed) == 1:
            raise InputError(f"resume=true cannot change {listed[0]}: leave this key out, or start another run.")
        raise InputError(f"resume=true cannot change {len(listed)} keys: leave them out, or start another run.", listed)
    for key in given:
        if key in MAY_CHANGE_ON_RESUME:
            node = tree
            *path, leaf = key.split(".")
            for part in path:
                node = node[part]
            node[leaf] = wanted[key]
    tree["run"], tree["resume"], tree["allow"] = config.run, True, config.allow
    check_external_names(saved.env, [*config.allow, *external_names(config.env)], str(folder / CONFIG))
    return train_from_dict(tree, str(folder / CONFIG))


def is_finished(config: TrainConfig) -> bool:
    """Whether the run in `config.run` has come to its end, so that going on with it as `config` says would play nothing.

    Nothing is written. A run whose result or newest checkpoint is missing or damaged is not finished: it comes to its end again.

    Raises:
        InputError: `total_frames` was lowered below what has been played, or no checkpoint is intact.
    """
    folder = Path(config.run)
    found = list_checkpoints(folder / CHECKPOINTS)
    if not found:
        return False
    content = newest_intact(found).content
    env = env_from_dict(content["env"])
    statistics = Statistics(env.tasks)
    try:
        counters = content["learner"]["counters"]
        frames, updates = int(counters["steps"]) * env.action_repeat, int(counters["updates"])
        statistics.load_state_dict(content["statistics"])
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError):
        # `restore` says what is wrong.
        return False
    if config.total_frames < frames and config.total_frames != load_train(folder / CONFIG).total_frames:
        raise InputError(
            f"total_frames={config.total_frames} is less than the {frames} frames that run={folder} has played: give more."
        )
    written = read_json(folder / RESULT) or {}
    if not written.get("finished") or written.get("updates") != updates:
        return False
    return frames >= config.total_frames or 0 < config.stop_at_success <= statistics.success()


def write_agent(folder: Path, network: AgentNetwork, cost: MultiplyAdds) -> None:
    """The size of the agent, for comparisons at equal cost."""
    write_json(folder / AGENT, {"parameters": network.num_parameters, "multiply_adds": cost._asdict()})


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in this folder."""
    return (folder / CONFIG).exists()


def check_free(folder: Path, *, resume: bool) -> None:
    """Raises InputError where the folder holds a run that nobody has asked to go on with."""
    if holds_run(folder) and not resume:
        raise InputError(f"run={folder} already holds a run: add resume=true to continue it, or give another run=.")


def create_run_folder(config: TrainConfig, env: EnvSpec) -> Path:
    """Makes the folder and writes what is known at the start: config, provenance, vocabulary.

    Raises:
        InputError: the folder holds a run already and `resume` is off, or it cannot be written.
    """
    folder = Path(config.run)
    check_free(folder, resume=config.resume)
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        # The config marks the folder as a run, so it comes last.
        write_json(folder / PROVENANCE, provenance())
        write_json(folder / VOCABULARY, {"tasks": list(env.tasks), "words": list(env.vocabulary)})
        save_train(config, folder / CONFIG)
    except OSError as error:
        raise InputError(f"run={folder} cannot be written ({error.strerror}): give another run=.") from error
    return folder


def load_newest_checkpoint(folder: Path, say: Callable[[str], object]) -> dict[str, Any] | None:
    """Content of the newest intact checkpoint of a run to go on with, or None when it was killed before its first.

    Damaged ones after it get another name, `<name>.damaged`: they are no checkpoints any more, and nothing is lost.

    Args:
        say: is given a sentence about them.

    Raises:
        InputError: there are checkpoints and all are damaged.
    """
    found = list_checkpoints(folder / CHECKPOINTS)
    if not found:
        return None
    newest = newest_intact(found)
    if newest.damaged:
        say(newest.warning)
    for error in newest.damaged:
        # Where that is refused, the run cannot be written either, which is about to be told.
        with contextlib.suppress(OSError):
            error.path.rename(error.path.with_name(error.path.name + ".damaged"))
    return newest.content


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """The final figures of a run."""
    write_json(folder / RESULT, result)


def collect_result(
    learner: Learner, statistics: Statistics, clock: Clock, env: EnvSpec, bottleneck: Bottleneck, *, ended_by: str
) -> dict[str, Any]:
    """The figures of result.json: counters, steady speed, where the time went, parameters, and each task's last episodes.

    Speed and time shares are those after the warm-up; a run that ends within it has 0 and none. `ended_by` is `signal` for a run that
    was interrupted, `pause` for one that was asked to come so far and not to its end, else the key that ended it.
    """
    state, tasks = learner.counters, statistics.summary(env.action_repeat)
    return {
        "finished": ended_by not in ("signal", "pause"),
        "ended_by": ended_by,
        "updates": state.updates,
        "updates_refused": state.refused,
        "frames": state.steps * env.action_repeat,
        "steps": state.steps,
        "seconds": clock.seconds,
        "frames_per_second": clock.steady_frames_per_second,
        "time": clock.shares._asdict() if clock.shares else {},
        "limited_by": bottleneck.sentence,
        "parameters": learner.network.num_parameters,
        "tasks": tasks,
        "mean": mean_over_tasks(tasks),
        "score": scores_of_suite(tasks),
    }


def write_diagnosis(folder: Path, error: NonFiniteError, config: TrainConfig, env: EnvSpec) -> Path:
    """What was not finite, with the names of the tasks and the options that decide; what was not finite before is replaced."""
    path = folder / DIAGNOSIS
    options = {"learner": to_dict(config.learner), "precision": config.precision, "core": config.core.name}
    write_json(path, for_json({"error": str(error), "tasks": list(env.tasks), **error.diagnosis, "options": options}))
    return path


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


def checkpoint_content(
    config: TrainConfig,
    env: EnvSpec,
    learner: Learner,
    statistics: Statistics,
    positions: StreamPositions,
    seconds: float,
    *,
    runtime: dict[str, Any] | None = None,
    faults: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of a checkpoint: everything that `restore` and evaluation need, as tensors and plain data. `runtime` and `faults` are
    their `state_dict`s.
    """
    return {
        "config": to_dict(config),
        "env": env_to_dict(env),
        "learner": learner.state_dict(),
        "positions": {"unrolls": dict(positions.unrolls), "episodes": dict(positions.episodes)},
        "runtime": runtime,
        "faults": faults or {},
        "statistics": statistics.state_dict(),
        "rng": torch.get_rng_state(),
        "seconds": seconds,
        "versions": dict(versions()),
    }


class ResumeState(NamedTuple):
    """What a run goes on from, beside what is put back in place.

    Attributes:
        seconds: that it has taken before.
        runtime: state from which its runtime goes on step for step; None where it begins new episodes.
        episodes_dropped: that were being played when the checkpoint was written and are not played to their end.
    """

    seconds: float = 0.0
    runtime: dict[str, Any] | None = None
    episodes_dropped: int = 0


def restore(
    content: dict[str, Any],
    config: TrainConfig,
    env: EnvSpec,
    learner: Learner,
    statistics: Statistics,
    positions: StreamPositions,
    *,
    num_actors: int,
) -> ResumeState:
    """Puts a checkpoint's content back in place.

    Raises:
        InputError: the environments are not those that the checkpoint was trained on, or it does not hold what it should.
    """
    saved = env_from_dict(content["env"])
    if changes := [*task_changes(saved, env), *interface_changes(saved, env)]:
        raise InputError(
            f"resume=true: the environments are not those of the checkpoint: {listed(changes)}"
            f"{other_versions(content['versions'], versions())}: install what the run was trained with, or start another run."
        )
    try:
        learner.load_state_dict(content["learner"])
        statistics.load_state_dict(content["statistics"])
        for actor, episodes in content["positions"]["episodes"].items():
            positions.unrolls[int(actor)] = int(content["positions"]["unrolls"][actor])
            positions.episodes[int(actor)] = [int(episode) for episode in episodes]
            if len(episodes) != config.runtime.slots_per_actor:
                raise ValueError(f"actor {actor} had {len(episodes)} slots")
        positions.steps.update(statistics.steps())
        torch.set_rng_state(content["rng"])
        runtime = content.get("runtime")
        alone = config.runtime.name == "serial" and config.learner.num_processes == 1
        if runtime and not (alone and len(runtime["actors"]) == num_actors):
            runtime = None
        dropped = 0 if runtime else sum(len(episodes) for episodes in positions.episodes.values())
        return ResumeState(float(content["seconds"]), runtime, dropped)
    except (LookupError, ArithmeticError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        # torch's first line says no more than that it failed.
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = " ".join(line.strip() for line in lines[:2])
        raise InputError(
            f"resume=true: the checkpoint does not fit its configuration ({reason}): use an earlier one."
        ) from error
