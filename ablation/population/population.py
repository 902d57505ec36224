"""A population: runs that train side by side, are compared at fixed numbers of frames, and copy each other.

The command can be repeated after a kill at any moment, and continues to the same result.

- <folder>/population.json      The keys of the population, and the command.
- <folder>/history.jsonl        The hyperparameters of every member over time (ablation/population/history.py).
- <folder>/<member>/...         Its run folder, with its current configuration.
- <folder>/exchange/            Copied checkpoints that are not yet in the folders of their members.

All members are compared together, at the same frames, so the result does not depend on their speed. A comparison first writes copied
checkpoints to `exchange`, then its rows to the history, which commits it, and then moves the checkpoints to the members.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablation.grid.grid import CLUSTER, Cell, check_existing_run, for_shared_machine, on_one_machine
from ablation.grid.scheduler import CellStatus, Executor, State, run_cells
from ablation.population.history import History
from ablation.population.pbt import Decision, Member, draw, exploit_and_explore, random_numbers
from ablation.population.report import describe_comparison
from agents.run.metrics import Statistics, mean_over_tasks, scores_of_suite
from agents.setup.builder import build_network
from agents.setup.preflight import check_fits
from agents.storage.checkpoint import CHECKPOINTS, env_from_dict, list_checkpoints, newest_intact, save_checkpoint
from conf.loading import to_dict, train_part
from conf.population_schema import PopulationConfig, comparison_frames, hyperparameter_ranges
from conf.schema import TrainConfig
from envs.scores import normalising_scores
from envs.suites import make_spec, settle
from system.errors import InputError
from system.files import read_json, write_json

POPULATION, EXCHANGE = "population.json", "exchange"

_NEUTRAL_KEYS = {"parallel", "node_runtime", "folder"}
"""Keys that do not change the result."""


class Fitness(NamedTuple):
    """Recent training performance of a member.

    Attributes:
        points: Of `measure`; None if there are too few `episodes`.
        measure: `score` (human-normalised, every task capped at 100, mean over tasks), `success` in percent, or `return`.
        episodes: Since its last copy, minimum over tasks.
        updates: Of the member.
    """

    points: float | None = None
    measure: str = ""
    episodes: int = 0
    updates: int = 0


class PopulationError(RuntimeError):
    """The population cannot continue; the message gives the reason."""


class Population:
    """The population of a checked configuration. InputError if its members cannot be trained."""

    history: History
    """Read or created by `begin`."""

    def __init__(self, config: PopulationConfig) -> None:
        self.folder = Path(config.folder or f"runs/population-{config.env.name}")
        self.comparisons = comparison_frames(config)
        self._config = config
        own = train_part(config)
        if own.runtime.name == CLUSTER:
            own = on_one_machine(own, config.node_runtime)
        env = make_spec(own.env)
        own.env = settle(own.env, env)
        check_fits(own, env, build_network(own, env))
        self._own = own
        digits = max(2, len(str(config.members - 1)))
        self.names = [f"member-{index:0{digits}}" for index in range(config.members)]

    def begin(self, command: Sequence[str]) -> None:
        """Starts or resumes the population in its folder, and completes an interrupted comparison.

        InputError if the folder holds another one.
        """
        self.history = History(self.folder)
        self._check_keys()
        self._check_history()
        write_json(self.folder / POPULATION, {"population": self._keys(), "command": list(command)})
        if self.history.generation < 0:
            ranges, seed = hyperparameter_ranges(self._config), self._config.seed
            starts = [draw(ranges, random_numbers(seed, 0, index)) for index in range(len(self.names))]
            self.history.add(
                [row_of(0, 0, index, Fitness(), Decision(None, False, start)) for index, start in enumerate(starts)]
            )
        self._move_checkpoints()
        own = [f"learner.{name}" for name in hyperparameter_ranges(self._config)]
        for cell in self.cells(0):
            check_existing_run(cell, but=own)

    def train(
        self, executor: Executor, on_change: Callable[[Mapping[str, CellStatus]], object], say: Callable[[str], object]
    ) -> dict[str, CellStatus]:
        """Trains all members from comparison to comparison (see `run_cells`); returns their final status by name.

        `say` receives lines about every comparison. PopulationError if every member failed before the next one.
        """
        progress: dict[str, CellStatus] = {}
        for generation, frames in enumerate(self.comparisons, start=1):
            if generation <= self.history.generation and frames < self.comparisons[-1]:
                continue
            progress = run_cells(self.cells(frames), executor, on_change)
            failed = {name: now.reason for name, now in progress.items() if now.state is State.FAILED}
            if len(failed) == len(self.names):
                raise PopulationError(f"every member failed; the first one: {next(iter(failed.values()))}")
            # After the last comparison there is no copy: the same command retries a failed member.
            if generation > self.history.generation and not (failed and frames == self.comparisons[-1]):
                for line in describe_comparison(self.compare(generation, frames, failed), self.names):
                    say(line)
        return progress

    def cells(self, frames: int) -> list[Cell]:
        """The members as cells that train up to `frames`; 0 = total_frames."""
        pause_at = frames if frames < self._config.total_frames else 0
        members = [self._member(index, self.history.hyperparameters(index)) for index in range(len(self.names))]
        return [
            Cell(name=name, variant=name, seed=train.seed, train=train, evaluate=None, pause_at=pause_at)
            for name, train in zip(self.names, members, strict=True)
        ]

    def compare(self, generation: int, frames: int, failed: Mapping[str, str]) -> list[dict[str, Any]]:
        """Compares all members, copies checkpoints, and returns the new rows of the history.

        `failed` has the reasons of members that failed before these frames. They count as the worst, with their last checkpoint.
        """
        fitness = [self.fitness(name) for name in self.names]
        points = [
            -math.inf if name in failed and one.updates else one.points
            for name, one in zip(self.names, fitness, strict=True)
        ]
        population = [Member(self.history.hyperparameters(index), one) for index, one in enumerate(points)]
        exchange = self.folder / EXCHANGE
        shutil.rmtree(exchange, ignore_errors=True)
        rows = []
        for index, name in enumerate(self.names):
            decision = Decision(None, False, dict(population[index].hyperparameters))
            if frames < self._config.total_frames:
                decision = exploit_and_explore(
                    index,
                    population,
                    random_numbers(self._config.seed, generation, index),
                    frames=frames,
                    burn_in_frames=self._config.burn_in_frames,
                    margin=self._config.margin,
                    factor=self._config.perturb_factor,
                    probability=self._config.perturb_probability,
                )
            if decision.copied:
                self._stage(exchange / str(generation) / name, index, decision)
            rows.append(row_of(generation, frames, index, fitness[index], decision, failed.get(name, "")))
        self.history.add(rows)
        self._move_checkpoints()
        return rows

    def fitness(self, name: str) -> Fitness:
        """Fitness of a member, from its newest checkpoint."""
        checkpoints = list_checkpoints(self.folder / name / CHECKPOINTS)
        if not checkpoints:
            return Fitness()
        with _readable(self.folder / name):
            return fitness_of(newest_intact(checkpoints).content, self._config.least_episodes)

    def _stage(self, folder: Path, index: int, decision: Decision) -> None:
        """Writes the checkpoint of a member that copies another one."""
        assert decision.compared_with is not None
        own, other = (
            newest_intact(list_checkpoints(self.folder / self.names[member] / CHECKPOINTS)).content
            for member in (index, decision.compared_with)
        )
        with _readable(self.folder):
            content = copy_checkpoint(own, other, self._member(index, decision.hyperparameters))
            save_checkpoint(folder, content["learner"]["counters"]["updates"], content)

    def _move_checkpoints(self) -> None:
        """Moves the remaining checkpoints of the last comparison to their members; deletes the checkpoints of an uncommitted comparison."""
        exchange = self.folder / EXCHANGE
        staged = exchange / str(self.history.generation)
        if staged.is_dir():
            for name in self.names:
                for path in list_checkpoints(staged / name):
                    os.replace(path, self.folder / name / CHECKPOINTS / path.name)
        shutil.rmtree(exchange, ignore_errors=True)

    def _member(self, index: int, hyperparameters: Mapping[str, Any]) -> TrainConfig:
        learner = dataclasses.replace(self._own.learner, **hyperparameters)
        seed = int(random_numbers(self._config.seed, index).integers(2**31))
        train = dataclasses.replace(self._own, learner=learner)
        return for_shared_machine(train, seed, self.folder / self.names[index])

    def _keys(self) -> dict[str, Any]:
        of_runs = {field.name for field in dataclasses.fields(TrainConfig)} - {"seed", "total_frames"}
        return {key: value for key, value in to_dict(self._config).items() if key not in of_runs | _NEUTRAL_KEYS}

    def _check_history(self) -> None:
        """Refuses rows of other members, in another order, or with other hyperparameters: another program may have written them."""
        members, names = range(len(self.names)), hyperparameter_ranges(self._config).keys()
        fits = len(self.history.rows) % len(members) == 0 and all(
            (row["generation"], row["member"]) == divmod(number, len(members))
            and row["hyperparameters"].keys() == names
            and (row["compared_with"] in members or (row["compared_with"] is None and not row["copied"]))
            for number, row in enumerate(self.history.rows)
        )
        if not fits:
            raise InputError(
                f"folder={self.folder} holds a history that does not fit members={len(self.names)}: give another folder=."
            )

    def _check_keys(self) -> None:
        found, wanted = (read_json(self.folder / POPULATION) or {}).get("population"), self._keys()
        if isinstance(found, dict) and found != wanted:
            keys = [key for key in sorted(wanted) if found.get(key) != wanted[key]]
            listed = ", ".join(f"{key}={wanted[key]} (it has {found.get(key)})" for key in keys)
            raise InputError(f"folder={self.folder} holds another population: {listed}. Give another folder=.")


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns errors about missing or wrong content of a checkpoint into InputError; another program may have written it."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder} has a checkpoint that is not readable ({reason}): put back a copy.") from error


def row_of(
    generation: int, frames: int, member: int, fitness: Fitness, decision: Decision, failed: str = ""
) -> dict[str, Any]:
    """A row of the history."""
    return {
        "generation": generation,
        "frames": frames,
        "member": member,
        "updates": fitness.updates,
        "fitness": fitness.points,
        "measure": fitness.measure,
        "episodes": fitness.episodes,
        "failed": failed,
        **decision._asdict(),
    }


def fitness_of(content: dict[str, Any], least_episodes: int) -> Fitness:
    """Fitness of the agent in a checkpoint, from its recent training episodes."""
    statistics = statistics_of(content)
    summary = statistics.summary(1)
    episodes = min(len(task.recent) for task in statistics.tasks.values())
    updates = content["learner"]["counters"]["updates"]
    if episodes < least_episodes:
        return Fitness(None, "", episodes, updates)
    scores, means = scores_of_suite(summary), mean_over_tasks(summary)
    if scores:
        measure, points = "score", scores["mean_capped"]
    elif "success" in means:
        measure, points = "success", 100 * means["success"]
    else:
        measure, points = "return", means.get("return", math.nan)
    return Fitness(points if math.isfinite(points) else None, measure, episodes, updates)


def copy_checkpoint(own: dict[str, Any], other: dict[str, Any], train: TrainConfig) -> dict[str, Any]:
    """The checkpoint of a member that copies another: network, optimiser and PopArt of the other, its own counters and random streams.

    Unfinished episodes are dropped and the statistics of recent episodes reset, because another agent played them.
    """
    learner = {**other["learner"], "counters": own["learner"]["counters"]}
    statistics = {task: {**row, "recent": []} for task, row in own["statistics"].items()}
    content = {key: value for key, value in own.items() if key not in ("format", "schema")}
    content |= {"config": to_dict(train), "learner": learner, "statistics": statistics, "runtime": None}
    best = own["kept"]["best"]
    if best and best["updates"] == learner["counters"]["updates"]:
        # The copy replaces this member's best checkpoint and holds a better agent.
        performance = statistics_of(other).recent_performance()
        assert performance
        content["kept"] = {**own["kept"], "best": {**best, **performance._asdict()}}
    return content


def statistics_of(content: dict[str, Any]) -> Statistics:
    """Training statistics in a checkpoint."""
    env = env_from_dict(content["env"])
    statistics = Statistics(env.tasks, normalising_scores(env))
    statistics.load_state_dict(content["statistics"])
    return statistics
