"""The cells of a grid, their files, and how far each cell has come.

<folder>/grid.json            the cells, in order
<folder>/<cell>/cell.json     the configurations of its training and evaluation
<folder>/<cell>/...           its run folder (agents/run/layout.py)
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.analysis.results import name_at_width
from ablation.grid.widths import fit_to_width
from ablation.load import HOUSEKEEPING_KEYS
from ablation.run_files import CELL_FILE, GRID_FILE, read_evaluation, read_grid, read_result
from agents.evaluation.episodes import SEEDED_ONCE
from agents.evaluation.probes import ALL, all_probes
from agents.run.layout import CONFIG, file_name
from agents.setup.builder import build_network
from agents.setup.preflight import check_fits
from agents.setup.sentence_tables import settle_context
from conf.ablate_schema import AblateConfig, list_seeds
from conf.allowlist import external_names
from conf.checks import check_train
from conf.composition import flatten
from conf.evaluate_schema import EvaluateConfig
from conf.loading import (
    compose_ablate,
    evaluate_from_dict,
    load_train,
    to_dict,
    train_from_dict,
    train_part,
)
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec, settle
from system.errors import InputError
from system.files import read_json, write_json, write_whole

LOG_STEPS = 100
"""Points of a learning curve if `log_frames` is not set."""

CLUSTER = "cluster"
"""The runtime of a grid whose runs are distributed over machines."""

_LIST_KEYS = ("fusions", "widths", "seeds", "folders")
GRID_KEYS = {field.name for field in dataclasses.fields(AblateConfig)} - {
    field.name for field in dataclasses.fields(TrainConfig)
}
NOT_AXES = HOUSEKEEPING_KEYS | {"log_frames"}
_NOT_COMPARED = NOT_AXES | {"seed", "match_params", "match"}
"""Keys that do not distinguish variants: two cells that differ in them only train the same agent in the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: Of its folder: the values of all axes and the seed.
        variant: The same without the seed.
        train, evaluate: The configurations. If an engine follows the seed tree only in the first episode of a slot,
            `evaluate.slots` gives each episode its own slot. Without `evaluate` the run is only trained.
        pause_at: Frames to train up to; 0 = total_frames.
    """

    name: str
    variant: str
    seed: int
    train: TrainConfig
    evaluate: EvaluateConfig | None
    pause_at: int = 0

    @property
    def folder(self) -> Path:
        return Path(self.train.run)


def make_cells(config: AblateConfig, single: Sequence[str], axes: dict[str, list[str]]) -> list[Cell]:
    """The checked cells in the order in which they run: the first seed of every variant, then the second, so that an unfinished grid can
    be compared too.

    `config` is composed from `single`; `single` and `axes` are the command line, split by `conf.loading.split_axes`. InputError if a
    configuration is invalid or does not fit its suite, `match_params` cannot be met, or two cells are equal.
    """
    folder = Path(config.folder or f"runs/ablate-{config.env.name}")
    variants: dict[str, tuple[TrainConfig, EnvSpec]] = {}
    widths: Sequence[float | None] = config.widths or [None]
    for values, width in itertools.product(itertools.product(config.fusions, *axes.values()), widths):
        values_by_key = dict(zip(["fusion", *axes], values, strict=True))
        train = train_part(compose_ablate([*single, *(f"{key}={value}" for key, value in values_by_key.items())]))
        if config.runtime.name == CLUSTER:
            train = on_one_machine(train, config.node_runtime)
        elif train.runtime.name == CLUSTER:
            raise InputError(
                f"runtime={CLUSTER} plays the whole grid and cannot be one value of an axis: give runtime={CLUSTER} alone."
            )
        check_train(train)
        env = make_spec(train.env)
        train.env, train.context = settle(train.env, env), settle_context(train.context, env)
        train = fit_to_width(train, env, width)
        check_fits(train, env, build_network(train, env))
        variant = " ".join([values_by_key.pop("fusion"), *(f"{key}={value}" for key, value in values_by_key.items())])
        variant = variant if width is None else name_at_width(variant, width)
        same = [name for name, (other, _) in variants.items() if _compared(other) == _compared(train)]
        if same or variant in variants:
            raise InputError(
                f"variant {variant} trains the same agent as variant {next(iter(same), variant)}: give each value once."
            )
        variants[variant] = train, env
    cells: list[Cell] = []
    for seed, (variant, (train, env)) in itertools.product(list_seeds(config), variants.items()):
        name = f"{file_name(variant)}-seed{seed}"
        if any(cell.name == name for cell in cells):
            raise InputError(
                f"Two runs of the grid would share the folder {name}: give values that differ in letters or digits."
            )
        own = for_shared_machine(train, seed, folder / name)
        evaluate = evaluation(config, env, own)
        cells.append(Cell(name=name, variant=variant, seed=seed, train=own, evaluate=evaluate))
    return cells


def for_shared_machine(train: TrainConfig, seed: int, run: Path) -> TrainConfig:
    """The configuration of a run beside others: resumable, without a display, and with curve points at the same frames."""
    log_frames = train.log_frames or max(1, train.total_frames // LOG_STEPS)
    return dataclasses.replace(train, seed=seed, run=str(run), resume=True, display=False, log_frames=log_frames)


def on_one_machine(train: TrainConfig, runtime: str) -> TrainConfig:
    """The configuration of a run on one machine of a cluster, with this runtime. InputError without a number of actors."""
    if runtime == "local" and not train.runtime.num_actors:
        raise InputError(
            "runtime.num_actors=0 leaves the number of actors to each machine, but a cluster must know how many CPUs a run takes: give "
            "runtime.num_actors=N (a run then takes N+1 CPUs) or node_runtime=serial."
        )
    # Other runs use the same machine, so the learner must not take all cores.
    threads = train.runtime.learner_threads or (runtime == "local")
    own = dataclasses.replace(train.runtime, name=runtime, address="", learner_threads=int(threads))
    return dataclasses.replace(train, runtime=own)


def normalize_axes(config: AblateConfig, single: list[str], axes: dict[str, list[str]]) -> None:
    """Replaces `fusion=concat,mi` or `fusion=mi` by `fusions=[...]` and `seed=0,1` by `seeds=[0,1]`, in the config and the command line.

    InputError if both spellings are given, or a key cannot be an axis.
    """
    _as_list("fusion", "fusions", config, single, axes)
    if "seed" in axes:
        _as_list("seed", "seeds", config, single, axes)
        # check_ablate refuses values that are not numbers.
        config.seeds = [int(seed) if seed.isdecimal() else seed for seed in config.seeds]
    for key, values in axes.items():
        given = f"{key}={','.join(values)}"
        if key in _LIST_KEYS:
            raise InputError(f"{given} is not a list: give {key}=[{','.join(values)}].")
        if key in GRID_KEYS:
            raise InputError(
                f"{given} is a key of the whole grid and cannot be an axis: give it one value, or start two grids."
            )
        if key in NOT_AXES:
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


def evaluation(config: AblateConfig, env: EnvSpec, train: TrainConfig) -> EvaluateConfig:
    """The evaluation of a run of the grid."""
    return EvaluateConfig(
        run=train.run,
        # The grid's command names these modules.
        allow=list(external_names(train.env)),
        plugins=list(train.plugins),
        episodes=config.episodes,
        greedy=config.greedy,
        seed=config.evaluation_seed,
        slots=config.episodes if env.engine in SEEDED_ONCE else 0,
        # A single task without instructions or vectors has one context, so a probe has no other.
        probe=config.probe if len(env.tasks) > 1 or env.instruction_length or "context" in env.observation else "",
        similarity=False,
    )


def save_grid(folder: Path, cells: Sequence[Cell], command: Sequence[str]) -> None:
    """Writes grid.json. Cells of an existing grid stay in it, so that seeds and variants can be added.

    InputError if a cell's folder holds another run.
    """
    for cell in cells:
        check_existing_run(cell)
    known = read_grid(folder)
    listed = {row["name"]: row for row in known.get("cells", [])}
    listed |= {cell.name: {"name": cell.name, "variant": cell.variant, "seed": cell.seed} for cell in cells}
    write_json(folder / GRID_FILE, {"cells": list(listed.values()), "command": list(command)})


def check_existing_run(cell: Cell, but: Collection[str] = ()) -> None:
    """Checks that a run in the cell's folder has the cell's settings; housekeeping keys and keys in `but` may differ.

    InputError names the keys that differ, with both values.
    """
    if not (cell.folder / CONFIG).exists():
        return
    wanted, found = flatten(to_dict(cell.train)), flatten(to_dict(load_train(cell.folder / CONFIG)))
    ignored = HOUSEKEEPING_KEYS | set(but)
    keys = [key for key in sorted(wanted | found) if key not in ignored and wanted.get(key) != found.get(key)]
    if keys:
        listed = ", ".join(f"{key}={wanted.get(key)} (the run has {found.get(key)})" for key in keys)
        raise InputError(
            f"folder={cell.folder.parent} holds {cell.name} with other settings: {listed}. Give another folder=, or the run's settings."
        )


def save_cell(cell: Cell) -> None:
    """Writes cell.json, from which another process loads the cell. Infinite numbers stay as they are: runtime.hang_seconds=inf is valid."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    content = {"name": cell.name, "variant": cell.variant, "seed": cell.seed, "pause_at": cell.pause_at}
    evaluate = to_dict(cell.evaluate) if cell.evaluate else None
    content |= {"train": to_dict(cell.train), "evaluate": evaluate}
    write_whole(cell.folder / CELL_FILE, json.dumps(content, indent=2) + "\n")


def load_cell(folder: Path) -> Cell:
    """The cell that `save_cell` wrote. InputError if the file is invalid."""
    path = folder / CELL_FILE
    content = read_json(path) or {}
    try:
        return Cell(
            name=str(content["name"]),
            variant=str(content["variant"]),
            seed=int(content["seed"]),
            train=train_from_dict(content["train"], str(path)),
            evaluate=None if content["evaluate"] is None else evaluate_from_dict(content["evaluate"]),
            pause_at=int(content["pause_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not describe a run of a grid: give the same ablate.py command again, which rewrites it."
        ) from error


def is_trained(cell: Cell) -> bool:
    """Whether the run is trained to its end, or to `pause_at`."""
    result = read_result(cell.folder)
    return bool(result.get("finished")) or 0 < cell.pause_at <= result.get("frames", 0)


def is_evaluated(cell: Cell) -> bool:
    """Whether the evaluation matches the cell's; for a cell without evaluation, whether it is trained."""
    if not cell.evaluate:
        return is_trained(cell)
    content, result, wanted = read_evaluation(cell.folder), read_result(cell.folder), cell.evaluate
    if not content or not result.get("finished"):
        return False
    played, probes = content["provenance"], {name for name in all_probes() if wanted.probe in (name, ALL)}
    return bool(
        played["updates"] == result["updates"]
        and (played["seed"], played["greedy"]) == (wanted.seed, wanted.greedy)
        and played.get("contexts", wanted.contexts) == wanted.contexts
        and all(row["episodes"] == wanted.episodes for row in content["tasks"].values())
        and set(content.get("probes", {})) == probes
    )


def _compared(train: TrainConfig) -> dict[str, Any]:
    return {key: value for key, value in flatten(to_dict(train)).items() if key not in _NOT_COMPARED}
