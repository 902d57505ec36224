"""The grid: which runs an ablation consists of, what of it is on the disk already, and whether that belongs to it.

<folder>/grid.json            the cells, in order
<folder>/<cell>/cell.json     what the cell is: its whole configuration and that of its evaluation
<folder>/<cell>/...           its run folder (agents/run/folder.py)
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.load import (
    CELL_FILE,
    GRID_FILE,
    HOUSEKEEPING_KEYS,
    read_evaluation,
    read_grid,
    read_paused_frames,
    read_result,
)
from agents.evaluation.episodes import SEEDED_ONCE
from agents.evaluation.probes import ALL, PROBES
from agents.run.folder import CONFIG
from agents.setup.builder import build_network
from agents.setup.match_params import match_params
from agents.setup.preflight import check_fits
from conf.ablate_schema import AblateConfig, seeds_of
from conf.allowlist import named
from conf.checks import check_train
from conf.loading import (
    compose_ablate,
    evaluate_from_dict,
    flatten,
    load_train,
    reference_fusion,
    to_dict,
    train_from_dict,
    train_part,
)
from conf.schema import EvaluateConfig, TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec, settle
from system.errors import InputError
from system.files import parse_json, read_json, read_lines, write_json
from system.plain_data import COUNT

_LOG_STEPS = 100
"""Points of a learning curve, unless `log_frames` says otherwise."""

CLUSTER = "cluster"
"""The runtime of a grid whose runs are dealt to several machines."""

_TAIL_BYTES = 2**20
"""Of metrics.jsonl, in which its last line lies."""

_LISTS = ("fusions", "seeds", "folders")
_OF_THE_GRID = {field.name for field in dataclasses.fields(AblateConfig)} - {
    field.name for field in dataclasses.fields(TrainConfig)
}
_NO_AXES = HOUSEKEEPING_KEYS | {"log_frames"}
_NOT_COMPARED = _NO_AXES | {"seed", "match_params"}
"""Keys in which two runs may differ that are the same agent, trained in the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: of its folder: its place on every axis and its seed, never a time.
        variant: the same without the seed.
        train, evaluate: the configurations; `evaluate.slots` gives every episode a slot of its own where an engine
            follows the seed tree for first episodes only. Without `evaluate` the run is trained only.
        pause_at: frames that it is trained for now; 0 = to its end.
    """

    name: str
    variant: str
    seed: int
    train: TrainConfig
    evaluate: EvaluateConfig | None
    pause_at: int = 0

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.train.run)


def make_cells(config: AblateConfig, single: Sequence[str], axes: dict[str, list[str]]) -> list[Cell]:
    """The cells in the order in which they are played: the first seed of every variant, then the second, so that a part of the grid is a
    comparison too. Everything that can be wrong with one is found here.

    Args:
        config: with one value for each key, and the grid's own keys.
        single, axes: the command line as `conf.loading.split_axes` has it.

    Raises:
        InputError: a cell's configuration is none, or cannot be played by its suite, or `match_params` cannot be met.
    """
    folder = Path(config.folder or f"runs/ablate-{config.env.name}")
    variants: dict[str, tuple[TrainConfig, EnvSpec]] = {}
    for values in itertools.product(config.fusions, *axes.values()):
        at = dict(zip(["fusion", *axes], values, strict=True))
        train = train_part(compose_ablate([*single, *(f"{key}={value}" for key, value in at.items())]))
        if config.runtime.name == CLUSTER:
            train = on_one_machine(train, config.node_runtime)
        elif train.runtime.name == CLUSTER:
            raise InputError(
                f"runtime={CLUSTER} plays the whole grid and cannot be one value of an axis: give runtime={CLUSTER} alone."
            )
        check_train(train)
        env = make_spec(train.env)
        train.env = settle(train.env, env)
        train = match_params(train, env, reference_fusion(train))
        check(train, env)
        variant = " ".join([at.pop("fusion"), *(f"{key}={value}" for key, value in at.items())])
        same = [name for name, (other, _) in variants.items() if _compared(other) == _compared(train)]
        if same or variant in variants:
            raise InputError(
                f"variant {variant} trains the same agent as variant {next(iter(same), variant)}: give each value once."
            )
        variants[variant] = train, env
    cells = [
        make_cell(config, folder, variant, seed, *variants[variant])
        for seed, variant in itertools.product(seeds_of(config), variants)
    ]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"Two runs of the grid would share the folder {name}: give values that differ in letters or digits."
            )
    return cells


def make_cell(config: AblateConfig, folder: Path, variant: str, seed: int, train: TrainConfig, env: EnvSpec) -> Cell:
    """One cell: `train`, which is the same for every seed of a variant, with what is the cell's own."""
    name = f"{_file_name(variant)}-seed{seed}"
    train = one_of_many(train, seed, folder / name)
    return Cell(name=name, variant=variant, seed=seed, train=train, evaluate=evaluation(config, env, train))


def one_of_many(train: TrainConfig, seed: int, run: Path) -> TrainConfig:
    """A run that is played beside others, without a terminal of its own, and whose learning curve has its points where theirs have."""
    log_frames = train.log_frames or max(1, train.total_frames // _LOG_STEPS)
    return dataclasses.replace(train, seed=seed, run=str(run), resume=True, display=False, log_frames=log_frames)


def on_one_machine(train: TrainConfig, runtime: str) -> TrainConfig:
    """A run that a cluster gives to one of its machines, where it has this runtime: the same run as on this machine.

    Raises:
        InputError: the machine would have to choose something that the cluster has to know.
    """
    if runtime == "local" and not train.runtime.num_actors:
        raise InputError(
            "runtime.num_actors=0 leaves the number of actors to each machine, but a cluster must know how many CPUs a run takes: give "
            "runtime.num_actors=N (a run then takes N+1 CPUs) or node_runtime=serial."
        )
    # The other runs of the machine take cores, too: no run can take all that it finds.
    threads = train.runtime.learner_threads or (runtime == "local")
    own = dataclasses.replace(train.runtime, name=runtime, address="", learner_threads=int(threads))
    return dataclasses.replace(train, runtime=own)


def own_axes(config: AblateConfig, single: list[str], axes: dict[str, list[str]]) -> None:
    """`fusion=concat,mi` (`fusion=mi`) means `fusions=[concat,mi]` and `seed=0,1` means `seeds=[0,1]`: moves them there, in the command
    line too. Every other axis has to be one of the experiment.

    Raises:
        InputError: both are given, or an axis is not part of what is compared.
    """
    _as_list("fusion", "fusions", config, single, axes)
    if "seed" in axes:
        _as_list("seed", "seeds", config, single, axes)
        # As `seeds=[...]` is read; text that is no number is refused with it.
        config.seeds = [int(seed) if seed.isdecimal() else seed for seed in config.seeds]
    for key, values in axes.items():
        given = f"{key}={','.join(values)}"
        if key in _LISTS:
            raise InputError(f"{given} is not a list: give {key}=[{','.join(values)}].")
        if key in _OF_THE_GRID:
            raise InputError(
                f"{given} is a key of the whole grid and cannot be an axis: give it one value, or start two grids."
            )
        if key in _NO_AXES:
            raise InputError(
                f"{given} is not an axis, because it does not change the agent or its tasks: give it one value."
            )


def _as_list(key: str, keys: str, config: AblateConfig, single: list[str], axes: dict[str, list[str]]) -> None:
    given = [text for text in single if text.startswith(f"{key}=")]
    wanted = axes.pop(key, [text.split("=", 1)[1] for text in given])
    if not wanted:
        return
    if any(text.startswith(f"{keys}=") for text in single) or keys in axes:
        raise InputError(f"{key}={','.join(wanted)} and {keys}= are both given: give {keys}=[...] alone.")
    setattr(config, keys, wanted)
    for text in given:
        single.remove(text)
    single.append(f"{keys}=[{','.join(wanted)}]")


def check(config: TrainConfig, env: EnvSpec) -> None:
    """Whether the suite, the agent and the machine belong together.

    Raises:
        InputError: they do not.
    """
    check_fits(config, env, build_network(config, env))


def evaluation(config: AblateConfig, env: EnvSpec, train: TrainConfig) -> EvaluateConfig:
    """How the cell of such a run is evaluated."""
    return EvaluateConfig(
        run=train.run,
        # The command of the grid has named them.
        allow=list(named(train.env)),
        episodes=config.episodes,
        greedy=config.greedy,
        seed=config.evaluation_seed,
        slots=config.episodes if env.engine in SEEDED_ONCE else 0,
        # One task that is known by its number is a single context: there is nothing else to tell.
        probe=config.probe if len(env.tasks) > 1 or env.instruction_length else "",
        similarity=False,
    )


def claim(folder: Path, cells: Sequence[Cell], command: Sequence[str]) -> None:
    """Writes grid.json; a grid that is there already is joined, so that seeds and variants can be added to it.

    Raises:
        InputError: a cell's folder holds a run of another configuration.
    """
    for cell in cells:
        differences(cell)
    known = read_grid(folder)
    listed = {row["name"]: row for row in known.get("cells", [])}
    listed |= {cell.name: {"name": cell.name, "variant": cell.variant, "seed": cell.seed} for cell in cells}
    write_json(folder / GRID_FILE, {"cells": list(listed.values()), "command": list(command)})


def differences(cell: Cell, but: Collection[str] = ()) -> None:
    """Refuses a run that is not the cell's; keys in `but` may differ.

    Raises:
        InputError: with the keys that differ, and both values.
    """
    if not (cell.folder / CONFIG).exists():
        return
    wanted, found = flatten(to_dict(cell.train)), flatten(to_dict(load_train(cell.folder / CONFIG)))
    free = HOUSEKEEPING_KEYS | set(but)
    keys = [key for key in sorted(wanted | found) if key not in free and wanted.get(key) != found.get(key)]
    if keys:
        listed = ", ".join(f"{key}={wanted.get(key)} (the run has {found.get(key)})" for key in keys)
        raise InputError(
            f"folder={cell.folder.parent} holds {cell.name} with other settings: {listed}. Give another folder=, or the run's settings."
        )


def save_cell(cell: Cell) -> None:
    """Writes cell.json, from which another process makes the same cell."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    content = {"name": cell.name, "variant": cell.variant, "seed": cell.seed, "pause_at": cell.pause_at}
    evaluate = to_dict(cell.evaluate) if cell.evaluate else None
    write_json(cell.folder / CELL_FILE, content | {"train": to_dict(cell.train), "evaluate": evaluate})


def load_cell(folder: Path) -> Cell:
    """The cell of `save_cell`; InputError when the file does not hold one."""
    path = folder / CELL_FILE
    content = read_json(path)
    try:
        assert content is not None
        evaluate = None if content["evaluate"] is None else evaluate_from_dict(content["evaluate"])
        name, variant, seed = str(content["name"]), str(content["variant"]), int(content["seed"])
        pause_at = int(content["pause_at"])
        train = train_from_dict(content["train"], str(path))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not describe a run of a grid: give the same ablate.py command again, which writes it anew."
        ) from error
    return Cell(name=name, variant=variant, seed=seed, train=train, evaluate=evaluate, pause_at=pause_at)


def trained(cell: Cell) -> bool:
    """Whether the cell's run has come to its end, or as far as it is asked for now."""
    return bool(read_result(cell.folder)) or 0 < cell.pause_at <= read_paused_frames(cell.folder)


def evaluated(cell: Cell) -> bool:
    """Whether the cell has been evaluated, and as it is asked for now; where nothing is, whether it is trained."""
    if not cell.evaluate:
        return trained(cell)
    content, result, wanted = read_evaluation(cell.folder), read_result(cell.folder), cell.evaluate
    if not content or not result:
        return False
    played, probes = content["provenance"], {name for name in PROBES if wanted.probe in (name, ALL)}
    return bool(
        played["updates"] == result["updates"]
        and (played["seed"], played["greedy"]) == (wanted.seed, wanted.greedy)
        and all(row["episodes"] == wanted.episodes for row in content["tasks"].values())
        and set(content.get("probes", {})) == probes
    )


def frames(cell: Cell) -> int:
    """Frames that the run has logged so far."""
    try:
        *_, newest = read_lines(cell.folder / "metrics.jsonl", last=_TAIL_BYTES)
        count = parse_json(newest)["frames"]
        return int(count) if COUNT.passes(count) else 0
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return 0


def _compared(train: TrainConfig) -> dict[str, Any]:
    return {key: value for key, value in flatten(to_dict(train)).items() if key not in _NOT_COMPARED}


def _file_name(text: str) -> str:
    """Without brackets and quotes; what else no shell likes becomes a comma."""
    return re.sub(r"[^\w.=+,-]", ",", re.sub(r"[\[\]{}'\"]", "", text))
