"""The probes of one evaluation (agents/evaluation/probes.py): what the slots of each task are told, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from agents.evaluation.episodes import (
    MAX_SLOTS,
    Episode,
    Episodes,
    SavedAgent,
    WrapPolicy,
    make_task_env,
    quotas,
    seat,
    stream,
)
from agents.evaluation.intervals import METHOD, interval
from agents.evaluation.probes import ALL, PROBES, Contexts, OverrideContextPolicy, Record, Scene, derangement
from agents.evaluation.report import Played, Scores, is_known, mean, outcomes, results, return_range
from agents.evaluation.task_similarity import draw, similarities, write
from agents.network.context import ContextEncoder
from conf.schema import EvaluateConfig
from envs.spec import EnvSpec
from system.errors import InputError

NO_SCORES: Scores = {}

# Keeps the draws of swaps apart from the sampling of actions, which hangs on the same `stream`.
_SWAPS = 1


class Probing:
    """The probes of one evaluation.

    Args:
        agent, spec, config: of the evaluation.

    Attributes:
        names: of the probes, in the order of PROBES; none without `probe=`.
        encoder: the trained context encoder.
        contexts: [P, C] for each task, trained or evaluated: what its slots are told when an episode begins. Empty without probes.

    Raises:
        InputError: a probe would tell the agent nothing but the truth.
    """

    def __init__(self, agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig) -> None:
        self.names = tuple(name for name in PROBES if config.probe in (name, ALL))
        self.encoder = agent.network(agent.env).context_encoder
        tasks = dict.fromkeys((*agent.env.tasks, *spec.tasks)) if self.names else ()
        self.contexts = {task: first_contexts(agent, spec, task, config.seed, self.encoder) for task in tasks}
        self._trained = agent.env.tasks
        self._seed = config.seed
        self._records = {task: Record() for task in spec.tasks}
        slots = len(quotas(config.episodes, config.slots))
        self._sources = self._shuffled(spec.tasks, slots)
        if without_context(agent) is None:
            self._check(spec.tasks, slots)

    def record(self, task: str) -> WrapPolicy | None:
        """For `play` without a probe, which comes first: `shuffle` tells what was told then. None where no probe follows."""
        return (lambda policy: OverrideContextPolicy(policy, self._records[task])) if self.names else None

    def wrap(self, name: str, task: str) -> WrapPolicy:
        """For `play` under a probe."""
        scene = Scene(others=self._others(task), sources=self._sources[task], seed=(*stream(self._seed, task), _SWAPS))
        return lambda policy: PROBES[name].wrap(policy, scene)

    def write_similarity(self, folder: Path, updates: int) -> list[Path]:
        """Writes the figure of agents/evaluation/task_similarity.py and returns its file; none without probes, or with nothing to
        compare."""
        if not self.names or len(self._trained) < 2:
            return []
        matrices = similarities(self.encoder, {task: self.contexts[task] for task in self._trained})
        return [write(draw(matrices, self._trained), folder, updates)] if matrices else []

    def _others(self, task: str) -> Contexts:
        """What other trained tasks are told; for an agent of one task, what that one is told."""
        others = [self.contexts[other] for other in self._trained if other != task]
        return np.concatenate(others or [self.contexts[task]])

    def _shuffled(self, tasks: Sequence[str], slots: int) -> dict[str, list[tuple[Record, int]]]:
        """For each task and each of its slots: where in the evaluation its context comes from."""
        source = derangement(len(tasks) * slots, np.random.default_rng(self._seed)).tolist()
        places = [(self._records[tasks[number // slots]], number % slots) for number in source]
        return {task: places[index * slots : (index + 1) * slots] for index, task in enumerate(tasks)}

    def _check(self, tasks: Sequence[str], slots: int) -> None:
        if "swap" in self.names:
            for task in tasks:
                if _all_equal([self._others(task), self.contexts[task]]):
                    raise InputError(
                        f"probe=swap can tell nothing else on {task}, because this agent knows one context there: use probe=zero."
                    )
        if "shuffle" in self.names and (len(tasks) * slots < 2 or _all_equal([self.contexts[task] for task in tasks])):
            raise InputError(
                "probe=shuffle needs slots that are told different things, and all of this evaluation are told the same: give more "
                "tasks= or episodes=, or use probe=zero."
            )


def without_context(agent: SavedAgent) -> str | None:
    """Why no probe can change what the agent does, in a sentence; None where one can."""
    if agent.config.context.name == "none" or not agent.config.fusion.sites:
        return "The agent has no context, so no probe can change what it does."
    if set(agent.config.fusion.sites) == {"value"}:
        return "The agent's context reaches its value head alone, so no probe can change what it does."
    return None


def first_contexts(agent: SavedAgent, spec: EnvSpec, task: str, seed: int, encoder: ContextEncoder) -> Contexts:
    """What slots of a task are told when an episode begins, [P, C]: a sample of MAX_SLOTS where instructions are read, else one."""
    if not encoder.reads_instruction:
        return encoder.context_rows(np.array([seat(agent, spec, task)[1]], np.int32), None)
    env = make_task_env(agent, spec, task, MAX_SLOTS, seed)
    try:
        observation, _ = env.reset()
        return np.array(encoder.context_rows(observation["task"], observation["instruction"]))
    finally:
        env.close()


def _all_equal(contexts: Sequence[Contexts]) -> bool:
    return len(np.unique(np.concatenate(contexts), axis=0)) == 1


def probe_report(
    agent: SavedAgent, played: Mapping[str, Episodes], probed: Mapping[str, Mapping[str, Episodes]]
) -> dict[str, Any]:
    """The section `probes` of evaluation.json: for each probe what its episodes gave, and the drop from those without it."""
    note = without_context(agent)
    section = {}
    for name, episodes in probed.items():
        tasks, aggregate = results(agent, episodes)
        section[name] = {
            "told": PROBES[name].told,
            "note": note,
            "interval": f"{METHOD}; of a drop: of the difference of two independent samples",
            "tasks": {
                task: row
                | drop({task: played[task]}, {task: episodes[task]}, agent.env.scores, certain=note is not None)
                for task, row in tasks.items()
            },
            "aggregate": aggregate | drop(played, episodes, agent.env.scores, certain=note is not None),
        }
    return section


def drop(played: Played, probed: Played, scores: Scores = NO_SCORES, *, certain: bool = False) -> dict[str, Any]:
    """What a probe took, of the return and of the success: mean over tasks without it minus that with it, and the interval.

    The two evaluations are taken as independent samples. Their episodes have the same seeds only where the engine seeds every episode,
    and even those part with the first action that differs.

    Args:
        played, probed: episodes without and with the probe.
        scores: of the suite, by task.
        certain: the agent cannot have acted otherwise, so episodes that are all the same are so by necessity: the drop is 0 for sure.
    """
    unchanged = all(_outcome(played[task]) == _outcome(probed[task]) for task in played)
    (returns, successes), (probed_returns, probed_successes) = outcomes(played), outcomes(probed)
    row: dict[str, Any] = {"unchanged": unchanged}
    ranges = [
        # A task has the same returns with and without the probe.
        return_range(np.concatenate(both), np.concatenate(successful), scores.get(task))
        for task, both, successful in zip(
            played,
            zip(returns, probed_returns, strict=True),
            zip(successes, probed_successes, strict=True),
            strict=True,
        )
    ]
    shares = [(0.0, 1.0)] * len(played)
    for key, before, after, ends in (
        ("return", returns, probed_returns, ranges),
        ("success", successes, probed_successes, shares),
    ):
        known = is_known([*before, *after])
        row[f"{key}_drop"] = mean(before) - mean(after) if known else None
        row[f"{key}_drop_interval"] = None
        if known:
            row[f"{key}_drop_interval"] = (
                (0.0, 0.0) if certain and unchanged else interval(before, after, ranges=[*ends, *ends])
            )
    return row


def _outcome(episodes: Sequence[Episode]) -> list[tuple[float, int]]:
    return [(episode.episode_return, episode.length) for episode in episodes]


def probe_tables(content: Mapping[str, Any]) -> list[Table | str]:
    """The section `probes` of evaluation.json for people; nothing without one."""
    sections = content.get("probes", {})
    notes = dict.fromkeys(section["note"] for section in sections.values() if section["note"])
    return [*(_table(name, section) for name, section in sections.items()), *notes]


def _table(name: str, section: Mapping[str, Any]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), title=f"\nprobe={name}: {section['told']}", title_justify="left")
    shown.add_column("task", overflow="fold")
    for column in ("return", "drop", "95% interval", "success", "drop", "95% interval"):
        shown.add_column(column, justify="right")
    for task, row in section["tasks"].items():
        # Text, because a task's name may look like markup.
        shown.add_row(Text(task), *_cells(row))
    total = section["aggregate"]
    shown.add_row(f"mean of {total['tasks']} tasks", *_cells(total), style="bold")
    return shown


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = []
    for value, key, form in (("mean", "return", ".3f"), ("success", "success", ".1%")):
        bounds = row[f"{key}_drop_interval"]
        cells += [
            "-" if row[value] is None else format(row[value], form),
            "-" if row[f"{key}_drop"] is None else format(row[f"{key}_drop"], form),
            "-" if bounds is None else " to ".join(format(bound, form) for bound in bounds),
        ]
    return cells
