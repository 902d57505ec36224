"""Evaluation on the contexts that training left out (envs/holdout.py): their episodes, and the section `unseen` of evaluation.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from agents.evaluation.episodes import Episodes, SavedAgent, play
from agents.evaluation.probe_report import drop
from agents.evaluation.report import results
from conf.schema import EvaluateConfig
from envs.faults import NoContextError
from envs.spec import EnvSpec
from envs.suites import held_out
from system.errors import InputError


def check_contexts(agent: SavedAgent, config: EvaluateConfig) -> None:
    """Raises InputError if a group of contexts is asked for and training left none out."""
    if config.contexts != "both" and not held_out(agent.config.env):
        raise InputError(
            f"contexts={config.contexts} needs an agent whose training left contexts out, and {agent.path} was trained without "
            "env.holdout: leave contexts= out."
        )


def plays_unseen(agent: SavedAgent, config: EvaluateConfig) -> bool:
    """Whether the unseen contexts are played beside the seen ones."""
    return config.contexts == "both" and bool(held_out(agent.config.env))


def play_unseen(
    agent: SavedAgent,
    spec: EnvSpec,
    config: EvaluateConfig,
    advance: Callable[[], object],
    begin: Callable[[str], object] = lambda task: None,
) -> dict[str, Episodes]:
    """Plays `config.episodes` episodes of each task on unseen contexts; a task that shows none is missing in the result.

    `begin` is called with each task before it is played. Otherwise as `agents.evaluation.episodes.play`.
    """
    unseen, found = dataclasses.replace(config, contexts="unseen"), {}
    for task in spec.tasks:
        begin(task)
        try:
            found[task] = play(agent, spec, task, unseen, advance)
        except NoContextError:
            continue
    return found


def unseen_report(agent: SavedAgent, seen: Mapping[str, Episodes], unseen: Mapping[str, Episodes]) -> dict[str, Any]:
    """The section `unseen` of evaluation.json: the results on unseen contexts, and the drop relative to the seen ones of the same tasks,
    with the interval of a difference of two independent samples.

    `without` are the tasks that show no unseen context; without any other task there are no results.
    """
    section: dict[str, Any] = {
        "contexts": list(held_out(agent.config.env)),
        "without": [task for task in seen if task not in unseen],
    }
    if not unseen:
        return section
    tasks, aggregate = results(agent, unseen)
    return section | {
        "tasks": {task: row | _drop(agent, seen, {task: unseen[task]}) for task, row in tasks.items()},
        "aggregate": aggregate | _drop(agent, seen, unseen),
    }


def _drop(agent: SavedAgent, seen: Mapping[str, Episodes], unseen: Mapping[str, Episodes]) -> dict[str, Any]:
    """The drop of return and success on the tasks of `unseen`."""
    found = drop({task: seen[task] for task in unseen}, unseen, agent.env.scores)
    return {key: value for key, value in found.items() if key != "unchanged"}
