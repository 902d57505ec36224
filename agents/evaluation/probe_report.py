"""Other contexts than those of training: the probes of one evaluation (agents/evaluation/probes.py), the contexts that training left out
(envs/holdout.py), and their sections `probes` and `unseen` of evaluation.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.acting.policy import ContextOverride, ContextRows, Policy
from agents.evaluation.episodes import (
    Episode,
    Episodes,
    PreparePolicy,
    SavedAgent,
    make_task_env,
    play,
    quotas,
    seat,
    split_of,
    stream,
)
from agents.evaluation.intervals import METHOD, interval
from agents.evaluation.probes import ALL, Record, Shuffle, Swap, add_noise, all_probes, derangement, zero
from agents.evaluation.report import Played, Scores, is_known, mean, outcomes, results, return_ranges
from agents.evaluation.task_similarity import FILE, draw, similarities, write
from agents.network.context import CONTEXT_KEYS, ContextEncoder
from agents.setup.plugins import PROBES
from agents.setup.preflight import MAX_SLOTS
from conf.evaluate_schema import EvaluateConfig
from envs.faults import NoContextError
from envs.spec import EnvSpec, Split
from envs.suites import held_out
from system.errors import InputError

# Separates the random numbers of swaps from those of the sampled actions, which share `stream`.
_SWAPS = 1


class Probing:
    """The probes of one evaluation. InputError if a probe would give the agent its true context.

    Attributes:
        names: Of the probes, in the order of PROBES. Empty without `probe=`.
        levels: The levels of `noise=` in increasing order, by their names.
        contexts: [P, C] for each trained or evaluated task: the contexts of its slots at the start of an episode. Empty without probes.
    """

    def __init__(self, agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig) -> None:
        self.names = tuple(name for name in all_probes() if config.probe in (name, ALL))
        self.levels = {f"noise={level:g}": level for level in sorted(config.noise)}
        self.encoder = agent.network(agent.env).context_encoder
        # The contexts themselves are compared.
        self.encoder.noise = self.encoder.dropout = 0.0
        tasks = dict.fromkeys((*agent.env.tasks, *spec.tasks)) if self.names else ()
        self._split = split_of(config)
        # A task that is not played may have no context of the group that is played.
        splits = {task: self._split if task in spec.tasks else Split.EVALUATION for task in tasks}
        self.contexts = {
            task: first_contexts(agent, spec, task, config.seed, self.encoder, split) for task, split in splits.items()
        }
        self._trained = agent.env.tasks
        self._seed = config.seed
        self._records = {task: Record() for task in spec.tasks}
        slots = len(quotas(config.episodes, config.slots))
        self._sources = self._shuffled_sources(spec.tasks, slots)
        if without_context(agent) is None:
            self._check(spec.tasks, slots)

    def record(self, task: str) -> PreparePolicy | None:
        """For `play` without a probe, which runs first: records the contexts for `shuffle`. None without probes."""
        return partial(_override_context, self._records[task]) if self.names else None

    def prepare(self, name: str, task: str) -> PreparePolicy:
        """For `play` under the probe or the noise `name`."""
        if name in self.levels:
            return partial(add_noise, self.levels[name])
        if name == "zero":
            return zero
        if name == "shuffle":
            return partial(_override_context, Shuffle(self._sources[task]))
        make = PROBES[name].make if name in PROBES else Swap
        seed = (*stream(self._seed, task, self._split), _SWAPS)
        return partial(_override_context, make(self._others(task), self.encoder.instruction_columns, seed))

    def write_similarity(self, folder: Path) -> list[Path]:
        """Writes the figure of agents/evaluation/task_similarity.py and returns its path; empty if there is nothing to compare."""
        if not self.names or len(self._trained) < 2:
            return []
        matrices = similarities(self.encoder, {task: self.contexts[task] for task in self._trained})
        return [write(draw(matrices, self._trained), folder / FILE)] if matrices else []

    def _others(self, task: str) -> ContextRows:
        """The contexts of the other trained tasks; for an agent of one task, the contexts of that task."""
        others = [self.contexts[other] for other in self._trained if other != task]
        return np.concatenate(others or [self.contexts[task]])

    def _shuffled_sources(self, tasks: Sequence[str], slots: int) -> dict[str, list[tuple[Record, int]]]:
        """For each task and each of its slots, the record and the slot from which `shuffle` takes the context."""
        order = derangement(len(tasks) * slots, np.random.default_rng(self._seed)).tolist()
        sources = [(self._records[tasks[number // slots]], number % slots) for number in order]
        return {task: sources[index * slots : (index + 1) * slots] for index, task in enumerate(tasks)}

    def _check(self, tasks: Sequence[str], slots: int) -> None:
        if "swap" in self.names:
            for task in tasks:
                if _all_equal([self._others(task), self.contexts[task]]):
                    raise InputError(
                        f"probe=swap has no other context for {task}, because this agent knows one context there: use probe=zero."
                    )
        if "shuffle" in self.names and (len(tasks) * slots < 2 or _all_equal([self.contexts[task] for task in tasks])):
            raise InputError(
                "probe=shuffle needs slots with different contexts, and all slots of this evaluation have the same: give more "
                "tasks= or episodes=, or use probe=zero."
            )


def _override_context(override: ContextOverride, policy: Policy) -> None:
    policy.context_override = override


def without_context(agent: SavedAgent) -> str | None:
    """A sentence that states why no probe can change the agent's actions; None if probes can."""
    if agent.config.context.name == "none" or not agent.config.fusion.sites:
        return "The agent has no context, so no probe can change what it does."
    if set(agent.config.fusion.sites) == {"value"}:
        return "The agent's context reaches its value head alone, so no probe can change what it does."
    return None


def first_contexts(
    agent: SavedAgent, spec: EnvSpec, task: str, seed: int, encoder: ContextEncoder, split: Split
) -> ContextRows:
    """Contexts of a task at the start of episodes, [P, C]: a sample of MAX_SLOTS if they differ between episodes, else one."""
    if not encoder.varies:
        return encoder.context_rows(np.array([seat(agent, spec, task)[1]], np.int32), None)
    env = make_task_env(agent, spec, task, MAX_SLOTS, seed, split)
    try:
        observation, _ = env.reset()
        return np.array(encoder.context_rows(observation["task"], *map(observation.get, CONTEXT_KEYS)))
    finally:
        env.close()


def _all_equal(contexts: Sequence[ContextRows]) -> bool:
    return len(np.unique(np.concatenate(contexts), axis=0)) == 1


def probe_report(
    agent: SavedAgent, played: Mapping[str, Episodes], probed: Mapping[str, Mapping[str, Episodes]]
) -> dict[str, Any]:
    """The section `probes` of evaluation.json: for each probe the results of its episodes, and the drop relative to `played`."""
    sections = comparison(agent, played, probed)
    return {name: {"told": all_probes()[name], **section} for name, section in sections.items()}


def comparison(
    agent: SavedAgent, played: Mapping[str, Episodes], probed: Mapping[str, Mapping[str, Episodes]]
) -> dict[str, dict[str, Any]]:
    """For each name in `probed` the results of its episodes, and the drop relative to `played`."""
    note = without_context(agent)
    compare = partial(drop, scores=agent.env.scores, certain=note is not None)
    section = {}
    for name, episodes in probed.items():
        tasks, aggregate = results(agent, episodes)
        section[name] = {
            "note": note,
            "interval": f"{METHOD}; of a drop: of the difference of two independent samples",
            "tasks": {task: row | compare({task: played[task]}, {task: episodes[task]}) for task, row in tasks.items()},
            "aggregate": aggregate | compare(played, episodes),
        }
    return section


def drop(played: Played, probed: Played, scores: Scores, *, certain: bool = False) -> dict[str, Any]:
    """The drop of return and success under a probe: the mean over tasks without it minus the mean with it, and its interval.

    The two evaluations are treated as independent samples. Their episodes share seeds only if the engine seeds every episode, and even
    then they diverge at the first different action. If `certain`, the probe cannot change the agent's actions: between equal episodes the
    drop is exactly 0.
    """
    unchanged = all(_outcome(played[task]) == _outcome(probed[task]) for task in played)
    # A task has the same range of returns with and without the probe.
    ranges = return_ranges({task: [*played[task], *probed[task]] for task in played}, scores)
    (returns, successes), (probed_returns, probed_successes) = outcomes(played), outcomes(probed)
    row: dict[str, Any] = {"unchanged": unchanged}
    for key, before, after, ends in (
        ("return", returns, probed_returns, ranges),
        ("success", successes, probed_successes, [(0.0, 1.0)] * len(played)),
    ):
        known = is_known([*before, *after])
        limits = None
        if known:
            limits = (0.0, 0.0) if certain and unchanged else interval(before, after, ranges=[*ends, *ends])
        row |= {f"{key}_drop": mean(before) - mean(after) if known else None, f"{key}_drop_interval": limits}
    return row


def _outcome(episodes: Sequence[Episode]) -> list[tuple[float, int]]:
    return [(episode.episode_return, episode.length) for episode in episodes]


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

    `without` are the tasks that show no unseen context. Without any other task `aggregate` is None.
    """
    tasks, aggregate = results(agent, unseen) if unseen else ({}, None)
    return {
        "contexts": list(held_out(agent.config.env)),
        "without": [task for task in seen if task not in unseen],
        "tasks": {task: row | _drop(agent, seen, {task: unseen[task]}) for task, row in tasks.items()},
        "aggregate": aggregate and aggregate | _drop(agent, seen, unseen),
    }


def _drop(agent: SavedAgent, seen: Mapping[str, Episodes], unseen: Mapping[str, Episodes]) -> dict[str, Any]:
    """The drop of return and success on the tasks of `unseen`."""
    found = drop({task: seen[task] for task in unseen}, unseen, agent.env.scores)
    return {key: value for key, value in found.items() if key != "unchanged"}
