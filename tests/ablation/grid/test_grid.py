"""Cells of a grid, their progress, and refused runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import change, write_json, write_run

from ablation.grid.grid import (
    Cell,
    is_evaluated,
    is_trained,
    load_cell,
    make_cells,
    normalize_axes,
    save_cell,
    save_grid,
)
from ablation.load import HOUSEKEEPING_KEYS
from ablation.run_files import newest_log_step
from agents.setup.builder import build_network
from agents.setup.match_params import TOLERANCE, count_matched, count_parameters
from conf.ablate_schema import AblateConfig, check_ablate, list_seeds
from conf.composition import flatten
from conf.evaluate_schema import EvaluateConfig
from conf.loading import compose_ablate, compose_train, split_axes, to_dict
from conf.schema import TrainConfig
from envs.suites import make_spec
from system.errors import InputError
from system.files import read_json

CONDITIONAL = ("env=conditional", "env.tasks=[map-0,map-1]", "runtime=serial", "total_frames=1000", "episodes=10")


def cells_of(*arguments: str) -> list[Cell]:
    """The cells of a command line."""
    single, axes = split_axes([*CONDITIONAL, *arguments])
    config = compose_ablate(single)
    normalize_axes(config, single, axes)
    check_ablate(config, cores=2)
    return make_cells(config, single, axes)


@pytest.fixture(scope="module")
def composed() -> list[Cell]:
    """Two seeds of two fusions."""
    return cells_of("fusions=[concat,mi]", "seeds=2")


@pytest.fixture
def grid(composed: list[Cell], tmp_path: Path) -> dict[str, Cell]:
    """The same cells in a temporary folder, by name."""
    return {cell.name: with_settings(cell, run=str(tmp_path / cell.name)) for cell in composed}


def with_settings(cell: Cell, **train: Any) -> Cell:
    return dataclasses.replace(cell, train=dataclasses.replace(cell.train, **train))


def test_cells_are_named_by_their_values_and_seed() -> None:
    cells = cells_of("fusions=[concat,mi]", "seeds=[0,3]", "core=lstm,feedforward", "folder=there")
    assert [cell.name for cell in cells] == [
        f"{fusion},core={core}-seed{seed}"
        for seed in (0, 3)
        for fusion in ("concat", "mi")
        for core in ("lstm", "feedforward")
    ]
    cell = cells[-1]
    assert (cell.variant, cell.seed, cell.folder) == ("mi core=feedforward", 3, Path("there") / cell.name)
    named = ["fusion=mi", "core=feedforward", "seed=3", f"run='there/{cell.name}'"]
    expected = compose_train([*CONDITIONAL[:-1], *named])
    expected = dataclasses.replace(expected, resume=True, display=False, log_frames=10)
    assert flatten(to_dict(cell.train)) == flatten(to_dict(expected))


def test_the_fusion_may_be_named_as_train_py_names_it() -> None:
    for argument in ("fusion=film,mi", "fusions=[film,mi]"):
        assert {cell.variant for cell in cells_of(argument, "seeds=1")} == {"film", "mi"}
    assert {cell.variant for cell in cells_of("fusion=film", "core.size=8,16", "seeds=1")} == {
        "film core.size=8",
        "film core.size=16",
    }


def test_the_widths_of_actor_and_critic_are_axes() -> None:
    """Beside `widths` they are multiples of the widened core."""
    cells = cells_of("fusions=[mi]", "seeds=1", "actor_width=0,2", "critic_width=0,1", "widths=[3]", "core.size=4")
    assert [cell.name for cell in cells] == [
        f"mi,actor_width={actor},critic_width={critic},width=3-seed0" for actor in (0, 2) for critic in (0, 1)
    ]
    networks = [build_network(cell.train, make_spec(cell.train.env)) for cell in cells]
    sizes = [tuple(layer.out_features if layer else 0 for layer in (one.actor, one.critic)) for one in networks]
    assert sizes == [(0, 0), (0, 12), (24, 0), (24, 12)]


def test_every_run_plays_the_same_episodes() -> None:
    evaluations = [cell.evaluate for cell in cells_of("seeds=2", "evaluation_seed=7", "greedy=true", "probe=zero")]
    assert len(evaluations) == 10
    assert {(e.seed, e.episodes, e.greedy, e.probe, e.slots) for e in evaluations} == {(7, 10, True, "zero", 0)}


def test_each_episode_has_a_slot_if_an_engine_seeds_first_episodes_only() -> None:
    pytest.importorskip("envpool")
    babyai = ("env=babyai", "env.tasks=[BabyAI-GoToLocal-v0]", "context=instruction")
    (cell,) = cells_of(*babyai, "fusions=[mi]", "seeds=1", "episodes=100")
    assert cell.evaluate.slots == 100


def test_a_single_context_is_not_probed() -> None:
    assert {cell.evaluate.probe for cell in cells_of("env.tasks=[map-0]", "fusions=[mi]")} == {""}


@pytest.mark.slow
def test_parameters_are_matched_in_every_cell() -> None:
    cells = cells_of("fusions=[concat,film,mi]", "seeds=1", "match_params=mi")
    counts = [count_parameters(cell.train, make_spec(cell.train.env)) for cell in cells]
    assert max(counts) <= 1.02 * min(counts)


def sizes(cell: Cell) -> tuple[Any, ...]:
    train = cell.train
    return (
        train.torso.size,
        train.torso.hidden,
        train.fusion.size,
        train.fusion.rank,
        train.fusion.hidden,
        train.core.size,
    )


def test_a_width_multiplies_the_sizes_of_torso_fusion_and_core() -> None:
    own = ("torso.size=10", "torso.hidden=[3,16]", "fusion.size=20", "fusion.rank=5", "fusion.hidden=7", "core.size=1")
    cells = cells_of("fusions=[concat,paco]", "widths=[0.5,1,2.3]", "core=lstm,gru", "seeds=[4]", *own)
    assert [cell.name for cell in cells] == [
        f"{fusion},core={core},width={width}-seed4"
        for fusion in ("concat", "paco")
        for core in ("lstm", "gru")
        for width in ("0.5", "1", "2.3")
    ]
    assert [sizes(cell) for cell in cells[:3]] == [
        # Halves are rounded to an even number, and no size is 0.
        (5, [2, 8], 10, 2, 4, 1),
        (10, [3, 16], 20, 5, 7, 1),
        (23, [7, 37], 46, 12, 16, 2),
    ]
    # Width 1 is the same run as without widths. Experts, heads and contexts keep their sizes at every width.
    (plain,) = cells_of("fusions=[concat]", "core=lstm", "seeds=[4]", *own)
    assert cells[1].train == dataclasses.replace(plain.train, run=cells[1].train.run)
    kept = {"run", "torso.size", "torso.hidden", "fusion.size", "fusion.rank", "fusion.hidden", "core.size"}
    wide = flatten(to_dict(cells[2].train))
    assert {key for key, value in flatten(to_dict(plain.train)).items() if wide[key] != value} == kept


@pytest.mark.parametrize("match", ["parameters", "multiply_adds"])
def test_the_fusions_of_each_width_are_matched_with_the_reference_at_that_width(match: str) -> None:
    """Half of the width is about a quarter of the size. The reference itself is not changed by the match."""
    arguments = ("widths=[0.5,1]", "seeds=1", "match_params=low_rank", f"match={match}")
    cells = cells_of("fusions=[concat,low_rank]", *arguments)
    counts = {cell.variant: count_matched(cell.train, make_spec(cell.train.env)) for cell in cells}
    for width in ("0.5", "1"):
        wanted = counts[f"low_rank width={width}"]
        assert abs(counts[f"concat width={width}"] - wanted) <= TOLERANCE * wanted
    assert 3 < counts["low_rank width=1"] / counts["low_rank width=0.5"] < 5
    alone = cells_of("fusions=[low_rank]", "widths=[0.5,1]", "seeds=1")
    assert [sizes(cell) for cell in cells if cell.variant.startswith("low_rank")] == [sizes(cell) for cell in alone]


def test_seeds_are_a_number_or_a_list() -> None:
    assert list_seeds(compose_ablate(["seeds=3"])) == [0, 1, 2]
    assert list_seeds(compose_ablate(["seeds=[5,2]"])) == [5, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fusions=[concat,mii]"], "fusions=mii is unknown: choose one of"),
        (["fusions=[]"], "fusions=[] is not a list of different fusions: give at least one"),
        (["fusions=[mi,mi]"], "fusions=[mi,mi] is not a list of different fusions"),
        (["fusions=[mi]", "fusion=mi"], "are both given"),
        (["fusion=mi,mii"], "fusions=mii is unknown"),
        (["seeds=0"], "seeds=0 is not a number of seeds"),
        (["seeds=[1,1]"], "seeds=[1, 1] is not a number of seeds, nor a list of different ones: give seeds=5"),
        (["seeds=many"], "seeds=many is not"),
        (["seeds=true"], "seeds=True is not"),
        (["seed=3"], "seed=3 belongs to one run, not to a grid: use seeds=[...]"),
        (["run=here"], "run=here belongs to one run, not to a grid"),
        (["parallel=3"], "parallel=3 is more than the 2 cores"),
        (["probe=swop"], "probe=swop is unknown"),
        (["measure=luck"], "measure=luck is unknown"),
        (["episodes=0"], "episodes=0 is out of range"),
        (["widths=1,2"], "widths=1,2 is not a list: give widths=[1,2]"),
        (["tune_fraction=0.5"], "tune_fraction=0.5 is not used: give 'tune={<key>: [<values>]}', or leave it out"),
        (["widths=[1,2,1]"], "widths=[1.0, 2.0, 1.0] is not a list of different widths: give each once"),
        (["widths=[0]"], "widths=[0.0] is out of range"),
        (["widths=[wide]"], "widths=['wide'] is not a list of plain values: give one"),
        (["widths=[1,1.001]"], "trains the same agent as variant"),
        (["widths=[200]", "core.size=400"], "At widths=[200]: core.size=80000 is out of range"),
        (["widths=[0.05]", "fusions=[moore]"], "At widths=[0.05]: fusion.hidden=6 has no room"),
        (["widths=[1,2]", "match_params=5000"], "match_params=5000 is one size for all widths"),
        (["widths=[1]", "match=multiply_adds"], "match=multiply_adds is not used"),
        (["actor_width=0,-1"], "actor_width=-1.0 is out of range"),
        (["actor_width=1,wide"], "actor_width=wide is not a number"),
        (["core=lstm,lstm"], "repeats a value"),
        (["fusion=concat,concat"], "repeats a value"),
        (["learner.learning_rate=1e-3,0.001"], "repeats a value"),
        (["core=lstm,'lstm'"], "trains the same agent as variant"),
        (["learner.discounting=.9,0.90"], "repeats a value"),
        (["experiment=conditional_linear,conditional_linear"], "repeats a value"),
        (["seed=0,0"], "repeats a value"),
        (["seed=0,00"], "seeds=[0, 0] is not a number of seeds"),
        (["seed=a,b"], "seeds=['a', 'b'] is not a number of seeds"),
        (["seed=0,1", "seeds=3"], "seed=0,1 and seeds= are both given: give seeds=[...] alone"),
        (["seed=0,1", "seeds=[0,1]"], "are both given"),
        (["seeds=1,2"], "seeds=1,2 is not a list: give seeds=[1,2]"),
        (["fusions=mi,film"], "fusions=mi,film is not a list: give fusions=[mi,film]"),
        (["fusion=mi", "fusions=film,concat"], "are both given"),
        (["core=glob(*)"], "core=glob(*) cannot be read as a list"),
        (["core=lstm,lstn"], "core=lstn is unknown"),
        (["core.sise=8,16"], "core.sise is not a key"),
        (["fusions=[attention]"], "puts attention on the torso's feature map"),
        (["context=instruction"], "needs instructions"),
        (["fusions=[concat]", "fusion.sites=[value]", "match_params=9"], "match_params=9 cannot be met"),
    ],
)
def test_an_invalid_grid_is_refused_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        cells_of(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


OF_THE_GRID = {field.name for field in dataclasses.fields(AblateConfig)} - {
    field.name for field in dataclasses.fields(TrainConfig)
}


@pytest.mark.parametrize("key", sorted(OF_THE_GRID | HOUSEKEEPING_KEYS | {"log_frames"}))
def test_grid_keys_and_housekeeping_keys_cannot_be_axes(key: str) -> None:
    config = compose_ablate(CONDITIONAL)
    for values in ("a,b", "1,2"):
        with pytest.raises(InputError) as error:
            normalize_axes(config, *split_axes([f"{key}={values}"]))
        message = str(error.value)
        assert message.startswith(f"{key}={values} is ") and ": give " in message and "\n" not in message
        assert any(words in message for words in ("cannot be an axis", "is not an axis", "is not a list")), message


def test_seeds_may_be_named_as_train_py_names_them() -> None:
    cells = cells_of("fusion=concat,mi", "seed=0,1")
    assert [(cell.variant, cell.seed) for cell in cells] == [("concat", 0), ("mi", 0), ("concat", 1), ("mi", 1)]
    assert [cell.train for cell in cells] == [cell.train for cell in cells_of("fusions=[concat,mi]", "seeds=[0,1]")]
    # The command in grid.json makes the same grid.
    single, axes = split_axes(["fusion=concat,mi", "seed=4,2"])
    normalize_axes(compose_ablate(["env=conditional"]), single, axes)
    assert (single, axes) == (["fusions=[concat,mi]", "seeds=[4,2]"], {})


@pytest.mark.slow
def test_no_two_cells_are_the_same_run() -> None:
    """For random axes: cells differ in more than folder and seed, or the grid is refused."""
    axes = {
        "fusion": ("concat", "mi", "film"),
        "core": ("lstm", "'lstm'", "feedforward"),
        "seed": ("0", "1", "01"),
        "learner.learning_rate": ("1e-3", "0.001", "3e-4"),
        "core.size": ("8", "16", "0x8"),
        "stop_at_success": ("0", "0.0", "0.9"),
        "match_params": ("''", "mi", "concat"),
        "precision": ("auto", "fp32", "bf16"),
        "runtime.num_actors": ("1", "2"),
    }
    rng = np.random.default_rng(0)
    made = refused = 0
    for _ in range(12):
        keys = rng.choice(list(axes), 2, replace=False)
        values = [rng.choice(axes[key], 2, replace=False) for key in keys]
        try:
            cells = cells_of(*(f"{key}={','.join(two)}" for key, two in zip(keys, values, strict=True)))
        except InputError:
            refused += 1
            continue
        made += 1
        flat = [flatten(to_dict(cell.train)) for cell in cells]
        own = [{key: str(value) for key, value in one.items() if key not in ("run", "seed")} for one in flat]
        runs = {(str(sorted(one.items())), cell.seed) for one, cell in zip(own, cells, strict=True)}
        variants = {str(sorted(one.items())) for one in own}
        assert len(runs) == len(cells) and len(variants) == len({cell.variant for cell in cells})
    assert made and refused


def test_a_fusion_that_needs_the_feature_map_is_checked_at_its_site() -> None:
    at_map = ["env.observation=image", "fusion.sites=[torso]", "fusions=[film,attention]", "seeds=1"]
    assert [cell.train.fusion.name for cell in cells_of(*at_map)] == ["film", "attention"]


def test_a_cell_is_saved_and_loaded(grid: dict[str, Cell]) -> None:
    cell = grid["mi-seed0"]
    save_cell(cell)
    assert load_cell(cell.folder) == cell
    for damage in ({"train": 3}, {"evaluate": {"episodes": "many"}}, {"evaluate": {"nonsense": 1}}, {"seed": None}):
        save_cell(cell)
        change(cell.folder / "cell.json", **damage)
        with pytest.raises(InputError) as error:
            load_cell(cell.folder)
        assert "cell of a grid" not in str(error.value)
    change(cell.folder / "cell.json", seed=None)
    with pytest.raises(InputError, match="does not describe a run of a grid: give the same ablate.py command again"):
        load_cell(cell.folder)


def test_a_cell_may_wait_without_end(tmp_path: Path) -> None:
    endless = ("hang_seconds", "reset_patience", "restart_window")
    cell, *_ = cells_of(f"folder={tmp_path}", *(f"runtime.{key}=inf" for key in endless))
    save_cell(cell)
    loaded = load_cell(cell.folder)
    assert loaded == cell and all(getattr(loaded.train.runtime, key) == math.inf for key in endless)


def finished(cell: Cell) -> None:
    """Writes the folder of a trained and evaluated cell."""
    write_run(cell.folder, f"fusion={cell.variant}", "log_frames=10")


def test_progress_is_read_from_the_run_folder(grid: dict[str, Cell]) -> None:
    cell = grid["mi-seed0"]
    assert (is_trained(cell), is_evaluated(cell), newest_log_step(cell.folder).frames) == (False, False, 0)
    finished(cell)
    assert (is_trained(cell), is_evaluated(cell), newest_log_step(cell.folder).frames) == (True, True, 896)
    other: list[EvaluateConfig] = [
        dataclasses.replace(cell.evaluate, **changed)  # type: ignore[arg-type]
        for changed in ({"episodes": 11}, {"seed": 1}, {"greedy": True}, {"probe": ""}, {"probe": "all"})
    ]
    assert not any(is_evaluated(dataclasses.replace(cell, evaluate=evaluate)) for evaluate in other)
    change(cell.folder / "result.json", updates=8)
    assert (is_trained(cell), is_evaluated(cell)) == (True, False)
    change(cell.folder / "result.json", finished=False)
    assert not is_trained(cell)


def test_a_grid_can_grow_but_its_runs_keep_their_settings(grid: dict[str, Cell], tmp_path: Path) -> None:
    first = grid["mi-seed0"]
    save_grid(tmp_path, [first], ["one"])
    finished(first)
    save_grid(tmp_path, list(grid.values()), ["two"])
    content = read_json(tmp_path / "grid.json")
    assert content is not None
    assert [row["name"] for row in content["cells"]] == ["mi-seed0", "concat-seed0", "concat-seed1", "mi-seed1"]
    assert content["command"] == ["two"]
    # Settings of speed may change.
    faster = dataclasses.replace(first.train.runtime, learner_threads=2)
    save_grid(tmp_path, [with_settings(first, checkpoint_seconds=1, runtime=faster)], ["three"])
    with pytest.raises(InputError, match=r"mi-seed0 with other settings: total_frames=2000 \(the run has 1000\)"):
        save_grid(tmp_path, [with_settings(first, total_frames=2000)], ["four"])


def test_cells_that_would_share_a_folder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablation.grid.grid.file_name", lambda variant: variant[:1])
    with pytest.raises(InputError, match="would share the folder m-seed0"):
        cells_of("fusions=[mi,mixture]", "seeds=1")


def test_a_torn_grid_file_is_replaced(grid: dict[str, Cell], tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text("{", encoding="utf-8")
    save_grid(tmp_path, list(grid.values()), [])
    assert read_json(tmp_path / "grid.json")
    write_json(tmp_path / "other.json", {})
    assert read_json(tmp_path / "other.json") == {}
