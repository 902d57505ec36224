"""A search for values of the learner's keys: optuna proposes trials, prunes them at comparisons, and the executors of grids run them.

The command can be repeated after a kill at any moment, and continues.

- <folder>/search.json          The keys of the search and the command.
- <folder>/optuna.log           Optuna's journal: the values and comparisons of all trials.
- <folder>/trial-00/...         Run folders.
- <folder>/result.json          The trials and the best one (ablation/search/report.py).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation.grid.grid import CLUSTER, Cell, check_existing_run, for_shared_machine, on_one_machine
from ablation.grid.scheduler import POLL_SECONDS, Executor, RunningCell, exit_reason
from ablation.population.population import Fitness, fitness_of
from agents.setup.builder import build_network
from agents.setup.preflight import check_fits
from agents.storage.checkpoint import CHECKPOINTS, list_checkpoints, newest_intact
from conf.loading import compose_search, to_dict, train_part
from conf.schema import TrainConfig
from conf.search_schema import Domain, SearchConfig
from envs.suites import make_spec, settle
from system.errors import InputError
from system.files import read_json, write_json
from system.words import count

SEARCH, JOURNAL = "search.json", "optuna.log"

_NEUTRAL_KEYS = {"trials", "parallel", "node_runtime", "folder", "display"}
"""Keys that may change when a search continues."""

_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What optuna raises for a journal that it has not written."""

_PRUNE_AFTER = 4
"""Trials that are played to their end before any is pruned."""


class Search:
    """The search of a checked configuration. InputError if optuna is missing, or a value of the space cannot be trained.

    Args:
        config: Composed from `single`.
        single: The overrides with one value.
        space: By key, the values to try.
    """

    def __init__(self, config: SearchConfig, single: Sequence[str], space: Mapping[str, Domain]) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise InputError('search.py needs optuna, which is not installed: give pip install "mimpala[search]".')
        self.folder = Path(config.folder or f"runs/search-{config.env.name}")
        self._config, self._single, self._space = config, single, space
        self._values: dict[int, dict[str, Any]] = {}
        for key, domain in space.items():
            for value in domain.ends():
                self._check({key: value})

    def example(self) -> Cell:
        """A cell with the resources of a trial, for the executor."""
        train = self._train({key: domain.ends()[0] for key, domain in self._space.items()})
        return Cell(name="example", variant="example", seed=0, train=train, evaluate=None)

    def begin(self, command: Sequence[str]) -> None:
        """Starts or continues the search in its folder. InputError if the folder holds another one."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._check_keys()
        write_json(self.folder / SEARCH, {"search": self._keys(), "command": list(command)})
        backend = optuna.storages.journal.JournalFileBackend(str(self.folder / JOURNAL), lock_obj=_NoLock())
        try:
            self.study: Any = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="search",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_PRUNE_AFTER),
            )
        except _DAMAGED as error:
            raise self._unreadable() from error

    def run(self, executor: Executor, say: Callable[[str], object]) -> list[str]:
        """Runs the missing trials; returns the names of failed ones, which the same command tries again.

        `say` receives a line for each comparison. A KeyboardInterrupt propagates after every trial has saved.
        """
        import optuna

        unfinished = self.study.get_trials(states=[optuna.trial.TrialState.RUNNING])
        waiting = [(self._suggest(optuna.Trial(self.study, trial._trial_id)), 0) for trial in unfinished]
        running: list[tuple[Any, int, RunningCell]] = []
        failed: list[str] = []
        try:
            while True:
                while waiting or len(self.study.trials) < self._config.trials:
                    trial, part = waiting[0] if waiting else (self._suggest(self.study.ask()), 0)
                    waiting = waiting or [(trial, part)]
                    cell = self._cell(trial, part)
                    check_existing_run(cell)
                    if (started := executor.start(cell)) is None:
                        break
                    running.append((trial, part, started))
                    del waiting[0]
                if not running:
                    return failed
                time.sleep(POLL_SECONDS)
                for entry in list(running):
                    trial, part, started = entry
                    if (end := started.poll()) is None:
                        continue
                    running.remove(entry)
                    if end.code:
                        failed.append(started.cell.name)
                        say(f"{started.cell.name} failed: {end.reason or exit_reason(started.cell, end.code)}")
                    elif self._compare(trial, part, started.cell, say):
                        # First, so that trials end before further ones begin.
                        waiting.insert(0, (trial, part + 1))
        finally:
            executor.stop()

    def _suggest(self, trial: Any) -> Any:
        """The trial with a value for each key of the space. New values depend on the seed and the earlier trials, not on interruptions.

        InputError if the journal, which another program may have written, has a value of another search.
        """
        import optuna

        self.study.sampler = optuna.samplers.TPESampler(
            seed=self._config.seed + trial.number, n_startup_trials=min(10, max(1, self._config.trials // 3))
        )
        try:
            with warnings.catch_warnings():
                # Optuna warns of a trial with another range, and takes that one.
                warnings.simplefilter("error", RuntimeWarning)
                self._values[trial.number] = {key: self._suggest_value(trial, key) for key in self._space}
        except (*_DAMAGED, RuntimeWarning) as error:
            raise self._unreadable() from error
        return trial

    def _suggest_value(self, trial: Any, key: str) -> Any:
        domain = self._space[key]
        if domain.choices:
            return trial.suggest_categorical(key, domain.choices)
        if type(to_dict(self._config.learner)[key.removeprefix("learner.")]) is int:
            step = 1 if domain.log else max(1, int(domain.step))
            return trial.suggest_int(key, math.ceil(domain.low), math.floor(domain.high), step=step, log=domain.log)
        distance = None if domain.log else domain.step or None
        return trial.suggest_float(key, domain.low, domain.high, step=distance, log=domain.log)

    def _unreadable(self) -> InputError:
        return InputError(f"{self.folder / JOURNAL} does not hold trials of this search: give another folder=.")

    def _compare(self, trial: Any, part: int, cell: Cell, say: Callable[[str], object]) -> bool:
        """Reports the value of a trial at the end of a part; returns whether the trial continues."""
        import optuna

        fitness = self._fitness(cell.folder)
        frames, last = cell.pause_at or cell.train.total_frames, not cell.pause_at
        shown = "too few episodes" if fitness.points is None else f"{fitness.measure} {fitness.points:.3g}"
        trial.set_user_attr("measure", fitness.measure)
        # A trial that continues after a kill may have reported it.
        if fitness.points is not None and frames not in self.study.trials[trial.number].intermediate_values:
            trial.report(fitness.points, frames)
        if last:
            state = optuna.trial.TrialState.FAIL if fitness.points is None else None
            self.study.tell(trial, fitness.points, state=state)
        elif self._config.prune and fitness.points is not None and trial.should_prune():
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            shown, last = f"{shown}, below the median: pruned", True
        say(f"{cell.name}: {count(frames, 'frame')}, {shown}")
        return not last

    def _fitness(self, folder: Path) -> Fitness:
        content = newest_intact(list_checkpoints(folder / CHECKPOINTS)).content
        return fitness_of(content, self._config.least_episodes)

    def name_of(self, number: int) -> str:
        """The name of a trial and of its folder."""
        return f"trial-{number:0{max(2, len(str(self._config.trials - 1)))}}"

    def _cell(self, trial: Any, part: int) -> Cell:
        """The trial as a cell that trains up to the comparison after part `part`."""
        name, total = self.name_of(trial.number), self._config.total_frames
        train = for_shared_machine(self._train(self._values[trial.number]), self._config.seed, self.folder / name)
        pause_at = total * (part + 1) // self._config.comparisons if part + 1 < self._config.comparisons else 0
        return Cell(name=name, variant=name, seed=train.seed, train=train, evaluate=None, pause_at=pause_at)

    def _train(self, values: Mapping[str, Any]) -> TrainConfig:
        train = train_part(compose_search([*self._single, *(f"{key}={value}" for key, value in values.items())]))
        return on_one_machine(train, self._config.node_runtime) if train.runtime.name == CLUSTER else train

    def _check(self, values: Mapping[str, Any]) -> None:
        train = self._train(values)
        env = make_spec(train.env)
        train.env = settle(train.env, env)
        check_fits(train, env, build_network(train, env))

    def _keys(self) -> dict[str, Any]:
        kept = {key: value for key, value in to_dict(self._config).items() if key not in _NEUTRAL_KEYS}
        space = {key: dataclasses.asdict(domain) for key, domain in self._space.items()}
        return {**kept, "space": {key: {**domain, "choices": list(domain["choices"])} for key, domain in space.items()}}

    def _check_keys(self) -> None:
        found, wanted = (read_json(self.folder / SEARCH) or {}).get("search"), self._keys()
        if isinstance(found, dict) and found != wanted:
            keys = ", ".join(key for key in sorted(wanted) if found.get(key) != wanted[key])
            raise InputError(f"folder={self.folder} holds another search (it differs in {keys}): give another folder=.")


class _NoLock:
    """For optuna's journal: the caller holds the lock of the folder. Optuna's own lock would stay behind after a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...
