"""The tuning runs of a grid, their seeds, the choices made from them, and keys that cannot be tuned."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from run_folders import change, write_run

from ablation.grid import tuning
from ablation.grid.grid import Cell, normalize_axes, save_cell
from ablation.grid.scheduler import CellStatus, State
from ablation.grid.tuning import TunedGrid
from agents.run.layout import CONFIG
from conf.ablate_schema import check_ablate
from conf.composition import flatten
from conf.loading import compose_ablate, save_train, split_axes, to_dict
from envs.seeding import episode_seed
from envs.spec import Split
from system.errors import InputError

CONDITIONAL = ("env=conditional", "env.tasks=[map-0,map-1]", "runtime=serial", "total_frames=1000", "episodes=10")
RATES = "tune={learner.learning_rate: [3e-4, 1e-3]}"


def grid_of(*arguments: str) -> TunedGrid:
    """The tuned grid of a command line."""
    single, axes = split_axes([*CONDITIONAL, *arguments])
    config = compose_ablate(single)
    normalize_axes(config, single, axes)
    check_ablate(config, cores=2)
    return TunedGrid(config, single, axes)


class Played:
    """Replaces `run_grid`: writes the folders of the cells, whose mean return is `value(cell)`; a cell without one fails."""

    def __init__(self, value: Callable[[Cell], float | None]) -> None:
        self.value = value
        self.cells: list[Cell] = []

    def __call__(self, config: object, cells: Sequence[Cell], command: object) -> dict[str, CellStatus]:
        self.cells = list(cells)
        return {cell.name: self.play(cell) for cell in cells}

    def play(self, cell: Cell) -> CellStatus:
        if (value := self.value(cell)) is None:
            return CellStatus(State.FAILED, 64, "it broke")
        write_run(cell.folder, returns=value)
        save_train(cell.train, cell.folder / CONFIG)
        save_cell(cell)
        return CellStatus(State.FINISHED, 896)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """The higher the learning rate, the better for `mi`, and the worse for others."""
    stand_in = Played(
        lambda cell: (1 if cell.train.fusion.name == "mi" else -1) * 100 * cell.train.learner.learning_rate
    )
    monkeypatch.setattr(tuning, "run_grid", stand_in)
    return stand_in


def rates(cells: Sequence[Cell]) -> dict[str, float]:
    return {cell.name: cell.train.learner.learning_rate for cell in cells}


def trials(grid: TunedGrid) -> list[tuple[Mapping[str, Any], Cell]]:
    return [trial for plan in grid._plans for trial in plan.trials]


def test_every_run_has_tuning_runs_for_each_combination() -> None:
    grid = grid_of(
        "fusions=[concat,mi]",
        "seeds=[0,7]",
        "folder=there",
        "tune={learner.learning_rate: [3e-4, 1e-3], core: [lstm, gru]}",
        "tune_seeds=2",
        "tune_fraction=0.3",
        "probe=swap",
    )
    cells = [cell for _, cell in trials(grid)]
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * 4 * 2
    cell = cells[-1]
    assert cell.name == "mi,learner.learning_rate=0.001,core=gru-seed1000007001"
    assert cell.folder == Path("there/tuning") / cell.name and cell.variant == "mi learner.learning_rate=0.001 core=gru"
    assert cell.evaluate is not None and (cell.evaluate.run, cell.evaluate.probe) == (cell.train.run, "")
    # A tuning run differs from its run in the grid in these keys only.
    test = next(test for test in grid._tests[-1] if (test.variant, test.seed) == ("mi", 7))
    own, theirs = (flatten(to_dict(one.train)) for one in (cell, test))
    different = {key: own[key] for key in own if own[key] != theirs[key]}
    assert different == {"seed": 1000007001, "run": str(cell.folder), "total_frames": 300, "log_frames": 3}


def test_a_choice_for_a_whole_variant_is_made_once() -> None:
    grid = grid_of("fusions=[mi]", "seeds=3", RATES, "tune_per=variant", "tune_seeds=2")
    assert {(plan.variant, plan.seed, len(plan.runs)) for plan in grid._plans} == {("mi", None, 3)}
    assert {cell.seed for _, cell in trials(grid)} == {1000000000, 1000000001}


@pytest.mark.parametrize("per", ["seed", "variant"])
def test_tuning_shares_no_seed_and_no_episode_with_the_grid(per: str) -> None:
    grid = grid_of("fusions=[mi]", "seeds=[0,1,999999]", RATES, f"tune_per={per}", "tune_seeds=3")

    def episodes(seed: int, split: Split) -> set[tuple[str, int]]:
        return {
            (task, episode_seed(seed, split, task, slot, episode))
            for task in ("map-0", "map-1")
            for slot in range(50)
            for episode in range(4)
        }

    tests, tuned = grid._tests[0], [cell for _, cell in trials(grid)]
    assert not {cell.seed for cell in tests} & {cell.seed for cell in tuned}
    for split, seed_of in ((Split.TRAIN, lambda cell: cell.seed), (Split.EVALUATION, lambda cell: cell.evaluate.seed)):
        first, second = (set().union(*(episodes(seed_of(cell), split) for cell in cells)) for cells in (tests, tuned))
        assert first and second and not first & second


def test_axes_and_matched_sizes_are_tuned_on_their_own(played: Played, tmp_path: Path) -> None:
    grid = grid_of(f"folder={tmp_path}", "fusions=[concat,mi]", "core=lstm,feedforward", "seeds=1", RATES)
    cells, choices, failed = grid.tune([])
    assert not failed and len(choices) == 4
    assert rates(cells) == {
        "concat,core=lstm-seed0": 3e-4,
        "concat,core=feedforward-seed0": 3e-4,
        "mi,core=lstm-seed0": 1e-3,
        "mi,core=feedforward-seed0": 1e-3,
    }
    assert [cell.variant for cell in cells] == [cell.variant for cell in grid._tests[0]]
    matched = grid_of(f"folder={tmp_path}/matched", "fusions=[concat]", "seeds=1", RATES, "match_params=mi")
    assert {cell.train.fusion.size for _, cell in trials(matched)} == {matched._tests[0][0].train.fusion.size} != {128}


def test_every_width_is_tuned_on_its_own(played: Played, tmp_path: Path) -> None:
    sizes: set[int] = set()

    def value(cell: Cell) -> float:
        sizes.add(cell.train.core.size)
        return cell.train.learner.learning_rate * (1 if cell.train.core.size > 16 else -1)

    played.value = value
    small = ("core.size=16", "fusion.size=16", "torso.hidden=[16]", "widths=[1,2]")
    cells, _, _ = grid_of(f"folder={tmp_path}", "fusions=[mi]", "seeds=1", RATES, *small).tune([])
    assert sizes == {16, 32} and list(rates(cells).values()) == [3e-4, 1e-3]


def test_contexts_that_training_leaves_out_are_not_played_in_tuning() -> None:
    pytest.importorskip("minigrid")
    babyai = (
        "env=babyai",
        "env.engine=minigrid",
        "env.tasks=[BabyAI-GoToLocal-v0]",
        "context=instruction",
        "torso=auto",
    )
    (plan,) = grid_of(*babyai, "env.holdout_fraction=0.2", "fusions=[concat]", "seeds=1", RATES)._plans
    assert {cell.evaluate.contexts for _, cell in plan.trials if cell.evaluate} == {"seen"}


def test_each_run_has_its_own_choice(played: Played, tmp_path: Path) -> None:
    played.value = lambda cell: cell.train.learner.learning_rate * (-1 if cell.seed == 1000001000 else 1)
    cells, choices, _ = grid_of(f"folder={tmp_path}", "fusions=[mi]", "seeds=2", RATES).tune([])
    assert rates(cells) == {"mi-seed0": 1e-3, "mi-seed1": 3e-4}
    assert [(choice.seed, choice.measure) for choice in choices] == [(0, "score"), (1, "score")]


def test_a_failed_tuning_run_does_not_count_and_is_tried_again(played: Played, tmp_path: Path) -> None:
    value, breaks = played.value, "mi,learner.learning_rate=0.001-seed1000000000"
    played.value = lambda cell: None if cell.name == breaks else value(cell)
    arguments = (f"folder={tmp_path}", "fusions=[mi]", "seeds=1", RATES)
    cells, (choice,), failed = grid_of(*arguments).tune([])
    assert failed and rates(cells) == {"mi-seed0": 3e-4}
    assert [(run.run, run.value, run.frames, run.reason) for run in choice.runs if run.reason] == [
        (breaks, None, 64, "it broke")
    ]
    played.value = value
    cells, _, failed = grid_of(*arguments).tune([])
    assert not failed and rates(cells) == {"mi-seed0": 1e-3}


def test_without_a_tuning_run_a_variant_has_no_runs(played: Played, tmp_path: Path) -> None:
    value = played.value
    played.value = lambda cell: None if cell.train.fusion.name == "mi" else value(cell)
    cells, choices, failed = grid_of(f"folder={tmp_path}", "fusions=[mi,film]", "seeds=1", RATES).tune([])
    assert failed and rates(cells) == {"film-seed0": 3e-4}
    assert [choice.chosen for choice in choices] == [None, {"learner.learning_rate": 3e-4}]


def test_a_choice_is_final_when_its_run_has_begun(played: Played, tmp_path: Path) -> None:
    arguments = (f"folder={tmp_path}", "fusions=[mi]", RATES)
    cells, _, _ = grid_of(*arguments, "seeds=1").tune([])
    played.play(cells[0])
    # Another evaluation and a new seed do not change it.
    cells, _, _ = grid_of(*arguments, "seeds=2", "greedy=true").tune([])
    assert {cell.seed for cell in played.cells} == {1000001000}
    assert rates(cells) == {"mi-seed0": 1e-3, "mi-seed1": 1e-3}
    # More values do, and the run that there is stays as it is.
    cells, _, _ = grid_of(*arguments[:2], "tune={learner.learning_rate: [3e-4, 1e-3, 3e-3]}", "seeds=1").tune([])
    assert rates(cells) == {"mi-seed0": 3e-3}
    with pytest.raises(
        InputError, match=r"mi-seed0 with other settings: learner.learning_rate=0.003 \(the run has 0.001\)"
    ):
        tuning.check_existing_run(cells[0])


def test_choices_of_other_runs_stay_in_the_file(played: Played, tmp_path: Path) -> None:
    def choices(*arguments: str) -> list[tuple[str, int | None]]:
        grid_of(f"folder={tmp_path}", *arguments, RATES).tune([])
        content = json.loads((tmp_path / "tuning.json").read_text(encoding="utf-8"))
        return [(choice["variant"], choice["seed"]) for choice in content["choices"]]

    assert choices("fusions=[mi,film]", "seeds=1") == [("mi", 0), ("film", 0)]
    assert choices("fusions=[mi]", "seeds=[1]") == [("mi", 0), ("film", 0), ("mi", 1)]
    assert choices("fusions=[mi]", "seeds=[1]", "tune_per=variant") == [("film", 0), ("mi", None)]
    assert choices("fusions=[mi]", "seeds=[2]") == [("film", 0), ("mi", 2)]


def test_a_run_with_none_of_the_values_is_refused_before_tuning(played: Played, tmp_path: Path) -> None:
    arguments = (f"folder={tmp_path}", "fusions=[mi]", "seeds=1")
    (test,) = grid_of(*arguments, RATES)._tests[0]
    played.play(test)
    grid_of(*arguments, RATES)
    with pytest.raises(InputError, match=r"holds mi-seed0 with other settings: learner.learning_rate=0.01 "):
        grid_of(*arguments, "tune={learner.learning_rate: [1e-2, 1e-1]}")
    grid_of(*arguments, RATES).tune([])
    with pytest.raises(
        InputError, match=r"tuning holds .* with other settings: .*total_frames=500 \(the run has 250\)"
    ):
        grid_of(*arguments, RATES, "tune_fraction=0.5").tune([])


def test_a_damaged_file_of_choices_is_refused(played: Played, tmp_path: Path) -> None:
    grid = grid_of(f"folder={tmp_path}", "fusions=[mi]", "seeds=1", RATES)
    grid.tune([])
    change(tmp_path / "tuning.json", choices=[{"variant": "mi"}])
    with pytest.raises(InputError, match="tuning.json is damaged"):
        grid.tune([])


def test_a_choice_of_other_values_in_the_file_is_made_again(played: Played, tmp_path: Path) -> None:
    grid = grid_of(f"folder={tmp_path}", "fusions=[mi]", "seeds=1", RATES)
    cells, choices, _ = grid.tune([])
    played.play(cells[0])
    for chosen in ({"learner.learning_rate": 7}, {"core": "gru"}, None):
        change(tmp_path / "tuning.json", choices=[tuning._to_json(dataclasses.replace(choices[0], chosen=chosen))])
        assert grid.tune([])[0] == cells


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune=3"], "tune=3 is no mapping of keys to values: write 'tune={learner.learning_rate: ["),
        (["tune={}"], "tune={} is no mapping"),
        (
            ["tune={learner.learning_rate: []}"],
            "tune={learner.learning_rate: []} is no list of different values: give two",
        ),
        (["tune={learner.learning_rate: [1e-3]}"], "tune={learner.learning_rate: [0.001]} is no list"),
        (["tune={learner.learning_rate: 1e-3}"], "tune={learner.learning_rate: 0.001} is no list"),
        (["tune={learner.learning_rate: [1e-3,0.001]}"], "is no list of different values"),
        (["tune={core: [lstm,'lstm']}"], "is no list of different values"),
        (["tune={core.size: [8,'8']}"], "the same agent with core.size=8 and core.size=8: give each value once"),
        (["tune={learner.rate: [1,2]}"], "learner.rate is not a key of the configuration: did you mean"),
        (
            ["tune={learner.learning_rate: [1e-3,-1]}"],
            "learner.learning_rate=-1.0 is out of range: give a finite number",
        ),
        (["tune={learner.learning_rate: [1e-3,fast]}"], "learner.learning_rate=fast is not a number: give one"),
        (["tune={core: [lstm,lstn]}"], "core=lstn is unknown: choose one of"),
        (["core=lstm,gru", "tune={core: [lstm,gru]}"], "tune={core: [lstm,gru]} tunes a key that is an axis or given"),
        (["core=lstm,gru", "tune={core.name: [lstm,gru]}"], "tunes a key that is an axis or given"),
        (["learner.learning_rate=1e-3", RATES], "tunes a key that is an axis or given as well: leave one"),
        (["tune={lr: [1e-3,2e-3], learner.learning_rate: [1,2]}"], "tunes a key that is an axis or given"),
        (["tune={fusion: [mi,film]}"], "tunes a key that is an axis"),
        (["tune={seed: [1,2]}"], "tunes a key that is an axis"),
        (
            ["tune={env.tasks: [[map-0],[map-1]]}"],
            "tunes a key in which runs that are compared must agree: give env.tasks one",
        ),
        (["tune={total_frames: [1000,2000]}"], "must agree: give total_frames one value"),
        (["tune={match_params: [mi,film]}"], "must agree: give match_params one value"),
        (
            ["tune={folder: [a,b]}"],
            "tunes a key that does not change the agent or what it learns: give folder one value",
        ),
        (["tune={checkpoint_seconds: [1,2]}"], "does not change the agent"),
        (["tune={episodes: [1,2]}"], "does not change the agent"),
        (
            ["seeds=[1000000]", RATES],
            "seeds=1000000 may be a seed of the tuning runs, which tune= adds: give at most 999999",
        ),
        (["evaluation_seed=1000000", RATES], "evaluation_seed=1000000 may be a seed of the tuning runs"),
        (["tune_seeds=0", RATES], "tune_seeds=0 is out of range"),
        (["tune_fraction=0", RATES], "tune_fraction=0.0 is out of range: give a number above 0"),
        (["tune_per=form", RATES], "tune_per=form is unknown"),
    ],
)
def test_a_key_that_cannot_be_tuned_is_refused_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        grid_of("fusions=[mi]", "seeds=1", *arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_names_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(
        InputError, match="Two tuning runs would share the folder mi,init=a,b-seed1000000000: give values"
    ):
        grid_of("fusions=[mi]", "seeds=1", "tune={init: ['a/b','a:b']}")


def test_the_settings_of_a_tuned_grid_are_shown() -> None:
    config = compose_ablate([RATES, "env=conditional"])
    assert config.tune == {"learner.learning_rate": [3e-4, 1e-3]}
    shown = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if "tune_" in field.name}
    assert shown == {"tune_per": "seed", "tune_seeds": 1, "tune_fraction": 0.25}
