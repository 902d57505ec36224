"""Tunes a grid: chooses values of given keys for every run, or every variant, in tuning runs before the runs of the grid.

<folder>/tuning/<cell>/...    the tuning runs, a grid of their own: variants x combinations of values x tuning seeds
<folder>/tuning.json          the choices, and all tuning runs that they were made from

Tuning runs have other seeds and other evaluation episodes than the runs of the grid (envs.seeding.tuning_seed). A tuning run that fails
does not count, and the same command tries it again. A choice is final when a run that it is for has begun.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablation.analysis.comparability import format_value
from ablation.analysis.results import Choice, TuningRun
from ablation.analysis.tuning import choose, describe_values
from ablation.grid.grid import GRID_KEYS, LOG_STEPS, NOT_AXES, Cell, check_existing_run, make_cells
from ablation.grid.run import run_grid
from ablation.grid.scheduler import State
from ablation.load import load_runs
from ablation.run_files import TUNING_FILE, read_choices
from agents.run.layout import file_name, holds_run
from conf.ablate_schema import AblateConfig, list_seeds
from conf.arguments.aliases import normalize
from envs.seeding import LARGEST_TUNED_SEED, tuning_seed
from envs.suites import held_out
from system.errors import InputError
from system.files import write_json

TUNING = "tuning"

_FIXED = ("env", "experiment", "total_frames", "stop_at", "stop_at_success", "match_params", "match")
"""Keys, or roots of keys, in which runs that are compared must agree."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """A choice to make: for the run of `seed` of a variant, or with None for all of them.

    Attributes:
        runs: Folders of the runs that the choice is for.
        trials: The tuning runs: a combination and a cell.
    """

    variant: str
    seed: int | None
    runs: Sequence[Path]
    trials: Sequence[tuple[Mapping[str, Any], Cell]]


class TunedGrid:
    """A grid with tuning, of a checked configuration. Arguments and errors as `make_cells`; InputError also if a key cannot be tuned."""

    def __init__(self, config: AblateConfig, single: Sequence[str], axes: dict[str, list[str]]) -> None:
        self._config = config
        values = _check_values(config, single, axes)
        self._combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
        self._tests = [
            make_cells(config, [*single, *(f"{key}={format_value(value)}" for key, value in one.items())], axes)
            for one in self._combinations
        ]
        self.folder = self._tests[0][0].folder.parent
        for cells in zip(*self._tests, strict=True):
            self._check_run(cells)
        self._plans = list(self._make_plans())

    def tune(self, command: Sequence[str]) -> tuple[list[Cell], list[Choice], bool]:
        """Runs what is missing, and writes tuning.json. The caller holds the lock of the folder.

        Returns the cells of the grid with their chosen values, without those that have no choice; the choices; and whether a tuning run
        failed. InputError if a folder holds a run with other settings.
        """
        final: list[Choice] = []
        unmade: list[_Plan] = []
        known = {(choice.variant, choice.seed): choice for choice in read_choices(self.folder)}
        for plan in self._plans:
            for _, cell in plan.trials:
                check_existing_run(cell)
            choice = known.get((plan.variant, plan.seed))
            names = [cell.name for _, cell in plan.trials]
            is_same = choice and choice.chosen in self._combinations and [run.run for run in choice.runs] == names
            if choice and is_same and any(map(holds_run, plan.runs)):
                final.append(choice)
            else:
                unmade.append(plan)
        made, failed = self._play(unmade, command) if unmade else ([], False)
        mine = {(choice.variant, choice.seed): choice for choice in (*final, *made)}
        kept = [choice for choice in known.values() if not _is_replaced(choice, mine)]
        choices = [*kept, *(mine[plan.variant, plan.seed] for plan in self._plans)]
        write_json(self.folder / TUNING_FILE, {"choices": [_to_json(choice) for choice in choices]})
        return self._chosen_cells(mine), list(mine.values()), failed

    def _make_plans(self) -> Iterator[_Plan]:
        places: dict[tuple[str, int | None], list[int]] = {}
        for place, cell in enumerate(self._tests[0]):
            seed = cell.seed if self._config.tune_per == "seed" else None
            places.setdefault((cell.variant, seed), []).append(place)
        names: set[str] = set()
        for (variant, seed), own in places.items():
            trials = [
                (values, self._trial(cells[own[0]], values, tuning_seed(seed or 0, index)))
                for index in range(self._config.tune_seeds)
                for values, cells in zip(self._combinations, self._tests, strict=True)
            ]
            for _, cell in trials:
                if cell.name in names:
                    raise InputError(
                        f"Two tuning runs would share the folder {cell.name}: give values that differ in letters or digits."
                    )
                names.add(cell.name)
            yield _Plan(variant, seed, [self._tests[0][place].folder for place in own], trials)

    def _trial(self, cell: Cell, values: Mapping[str, Any], seed: int) -> Cell:
        """A tuning run with the settings of a run of the grid."""
        config, variant = self._config, f"{cell.variant} {describe_values(values)}"
        name = f"{file_name(variant)}-seed{seed}"
        frames = max(1, round(config.tune_fraction * cell.train.total_frames))
        train = dataclasses.replace(
            cell.train,
            seed=seed,
            run=str(self.folder / TUNING / name),
            total_frames=frames,
            log_frames=min(cell.train.log_frames, max(1, frames // LOG_STEPS)),
        )
        # Contexts that training leaves out are for the test alone.
        contexts = "seen" if held_out(cell.train.env) else "both"
        seed_of_episodes = tuning_seed(config.evaluation_seed)
        evaluate = cell.evaluate and dataclasses.replace(
            cell.evaluate, run=train.run, seed=seed_of_episodes, probe="", contexts=contexts
        )
        return Cell(name=name, variant=variant, seed=seed, train=train, evaluate=evaluate)

    def _check_run(self, cells: Sequence[Cell]) -> None:
        """Refuses combinations that train the same agent, and a folder that holds a run with the settings of none of these cells."""
        for (one, first), (other, second) in itertools.combinations(zip(self._combinations, cells, strict=True), 2):
            if first.train == second.train:
                raise InputError(
                    f"tune= gives variant {first.variant} the same agent with {describe_values(one)} and {describe_values(other)}: give "
                    "each value once."
                )
        refusals = []
        for cell in cells:
            try:
                check_existing_run(cell)
            except InputError as error:
                refusals.append(error)
        if len(refusals) == len(cells):
            raise refusals[0]

    def _play(self, plans: Sequence[_Plan], command: Sequence[str]) -> tuple[list[Choice], bool]:
        """Makes these choices. Returns them, and whether a tuning run failed."""
        # The first tuning seed of every choice, then the second.
        cells = [cell for trials in zip(*(plan.trials for plan in plans), strict=True) for _, cell in trials]
        (self.folder / TUNING).mkdir(exist_ok=True)
        status = run_grid(self._config, cells, command)
        finished = [cell.folder for cell in cells if status[cell.name].state is State.FINISHED]
        results = load_runs(finished, self._config.measure) if finished else None
        runs = {run.name: run for run in results.runs} if results else {}
        problems = dict(results.problems) if results else {}

        def outcome(values: Mapping[str, Any], cell: Cell) -> TuningRun:
            if run := runs.get(cell.name):
                mean = float(np.mean(list(run.values.values())))
                return TuningRun(cell.name, cell.seed, values, mean, run.frames)
            now = status[cell.name]
            return TuningRun(cell.name, cell.seed, values, None, now.frames, now.reason or problems[cell.name])

        choices = []
        for plan in plans:
            own = tuple(outcome(*trial) for trial in plan.trials)
            name = results.measure.name if results else ""
            choices.append(Choice(variant=plan.variant, seed=plan.seed, measure=name, chosen=choose(own), runs=own))
        return choices, any(run.value is None for choice in choices for run in choice.runs)

    def _chosen_cells(self, choices: Mapping[tuple[str, int | None], Choice]) -> list[Cell]:
        cells = []
        for place, cell in enumerate(self._tests[0]):
            choice = choices.get((cell.variant, cell.seed)) or choices[cell.variant, None]
            if choice.chosen is not None:
                cells.append(self._tests[self._combinations.index(dict(choice.chosen))][place])
        return cells


def _check_values(
    config: AblateConfig, single: Sequence[str], axes: Mapping[str, Sequence[str]]
) -> dict[str, list[Any]]:
    """The tuned keys, in this project's spelling, with their values. InputError if a key or its list cannot be tuned."""
    if not isinstance(config.tune, dict) or not config.tune:
        raise InputError(
            f"tune={config.tune} is no mapping of keys to values: write 'tune={{learner.learning_rate: [3e-4, 1e-3]}}'."
        )
    for key, seed in [*(("seeds", seed) for seed in list_seeds(config)), ("evaluation_seed", config.evaluation_seed)]:
        if seed > LARGEST_TUNED_SEED:
            raise InputError(
                f"{key}={seed} may be a seed of the tuning runs, which tune= adds: give at most {LARGEST_TUNED_SEED}."
            )
    taken = {text.partition("=")[0] for text in single} | axes.keys()
    found: dict[str, list[Any]] = {}
    for name, values in config.tune.items():
        key = normalize([f"{name}=x"], "ablate")[0].partition("=")[0].removesuffix(".name")
        shown = f"tune={{{name}: {format_value(values)}}}"
        if not isinstance(values, list) or len(values) < 2 or any(values.count(value) > 1 for value in values):
            raise InputError(f"{shown} is no list of different values: give two or more, or one value as {key}=....")
        if key in _FIXED or key.partition(".")[0] in _FIXED:
            raise InputError(f"{shown} tunes a key in which runs that are compared must agree: give {key} one value.")
        if key in GRID_KEYS | NOT_AXES:
            raise InputError(
                f"{shown} tunes a key that does not change the agent or what it learns: give {key} one value."
            )
        if key in ("fusion", "seed") or key in taken or key in found:
            raise InputError(f"{shown} tunes a key that is an axis or given as well: leave one of the two out.")
        found[key] = values
    return found


def _is_replaced(choice: Choice, by: Mapping[tuple[str, int | None], Choice]) -> bool:
    """Whether one of these is for a run that `choice` is for as well."""
    seeds = [seed for variant, seed in by if variant == choice.variant]
    return bool(seeds) and (choice.seed is None or choice.seed in seeds or None in seeds)


def _to_json(choice: Choice) -> dict[str, Any]:
    content = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice)}
    return content | {"runs": [run._asdict() for run in choice.runs]}
