"""A population that is killed at any moment resumes to the same bits."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import population
from ablation.grid import cell as cell_process
from ablation.grid.grid import Cell, save_cell
from ablation.grid.scheduler import Exit
from ablation.population.history import History
from ablation.population.population import Fitness, Population, PopulationError, copy_checkpoint, fitness_of
from ablation.population.report import figure, summary
from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from conf.loading import compose_population, load_train
from conf.population_schema import check_population, comparison_frames
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

TINY = (
    *("env=conditional", "env.tasks=[map-0,map-1]", "runtime=serial", "core=feedforward", "display=false", "members=3"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "runtime.slots_per_actor=8", "learner.unroll_length=5"),
    *(
        "total_frames=1600",
        "burn_in_frames=500",
        "ready_frames=400",
        "margin=0.5",
        "least_episodes=5",
        "log_frames=200",
    ),
    *("learning_rates=[1e-4,1e-1]", "entropy_costs=[1e-4,1e-1]", "perturb_probability=0.8"),
)


class Ended:
    """A cell that has ended."""

    def __init__(self, cell: Cell, code: int) -> None:
        self.cell, self._code = cell, code

    def has_begun(self) -> bool:
        return True

    def poll(self) -> Exit:
        return Exit(self._code)


class Here:
    """An executor that runs each cell in this process before `start` returns; `instead` may give an exit code without running it."""

    def __init__(self, instead: Callable[[Cell], int | None] = lambda cell: None) -> None:
        self._instead = instead

    def start(self, cell: Cell) -> Ended:
        save_cell(cell)
        code = self._instead(cell)
        return Ended(cell, cell_process.run(cell.folder, threads=1) if code is None else code)

    def stop(self) -> None:
        """Nothing runs."""


class Killed(BaseException):
    """Simulates a kill of this process."""


def train(folder: Path, *overrides: str, executor: Here | None = None) -> Population:
    config = compose_population([*TINY, *overrides, f"folder={folder}"])
    check_population(config, cores=1)
    trained = Population(config)
    folder.mkdir(exist_ok=True)
    trained.begin(["test"])
    trained.train(executor or Here(), lambda status: None, lambda line: None)
    return trained


def newest(folder: Path, member: str) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(folder / member / "checkpoints")[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Population:
    """Trained without interruption."""
    return train(tmp_path_factory.mktemp("population"))


def same(found: Path, expected: Path) -> None:
    """Equal bit for bit, except times."""
    assert (found / "history.jsonl").read_bytes() == (expected / "history.jsonl").read_bytes()
    for member in ("member-00", "member-01", "member-02"):
        ours, theirs = newest(found, member), newest(expected, member)
        for part in ("learner", "positions", "runtime", "statistics", "rng"):
            torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0, equal_nan=True)
        assert ours["kept"] == theirs["kept"]


def test_members_copy_each_other_by_the_rule(whole: Population) -> None:
    rows = whole.history.rows
    assert [row["frames"] for row in rows] == [0] * 3 + [500] * 3 + [900] * 3 + [1300] * 3 + [1600] * 3
    assert any(row["copied"] for row in rows) and not all(row["copied"] for row in rows if 0 < row["frames"] < 1600)
    before = {row["member"]: row for row in rows[:3]}
    for row in rows[3:]:
        theirs = next(
            (r for r in rows if (r["generation"], r["member"]) == (row["generation"], row["compared_with"])), None
        )
        if row["copied"]:
            assert theirs and theirs["fitness"] - row["fitness"] > 0.5 and row["frames"] < 1600
            source = before_comparison(rows, row["generation"], row["compared_with"])
            for name, value in row["hyperparameters"].items():
                assert any(math.isclose(value, source[name] * factor) for factor in (1, 1.2, 1 / 1.2))
        else:
            assert row["hyperparameters"] == before[row["member"]]["hyperparameters"]
        before[row["member"]] = row
    for index, name in enumerate(whole.names):
        # The run folder and the checkpoint have the latest configuration.
        learner = load_train(whole.folder / name / "config.yaml").learner
        values = {"learning_rate": learner.learning_rate, "entropy_cost": learner.entropy_cost}
        assert values == whole.history.hyperparameters(index)
        assert newest(whole.folder, name)["config"]["learner"]["learning_rate"] == learner.learning_rate
        # A copy keeps its counters.
        frames = [json.loads(line)["frames"] for line in (whole.folder / name / "metrics.jsonl").open()]
        assert frames == sorted(set(frames)) and 1600 <= frames[-1] < 1700


def before_comparison(rows: Sequence[dict[str, Any]], generation: int, member: int) -> dict[str, float]:
    found = [row for row in rows if row["member"] == member and row["generation"] < generation]
    return found[-1]["hyperparameters"]


def test_members_start_with_different_seeds_and_values(whole: Population) -> None:
    trains = [load_train(whole.folder / name / "config.yaml") for name in whole.names]
    assert len({train.seed for train in trains}) == 3
    values = [row["hyperparameters"] for row in whole.history.rows[:3]]
    assert len({tuple(value.values()) for value in values}) == 3
    assert all(1e-4 <= number <= 1e-1 for value in values for number in value.values())


@pytest.mark.slow
def test_a_population_killed_during_training_resumes_to_the_same_bits(whole: Population, tmp_path: Path) -> None:
    folder = tmp_path / "population"
    plays = iter(range(100))

    def kill(cell: Cell) -> int | None:
        # The fifth and the eighth cell do not start.
        if next(plays) in (4, 7):
            raise Killed
        return None

    executor = Here(kill)
    for _ in range(2):
        with pytest.raises(Killed):
            train(folder, executor=executor)
    same(train(folder, executor=executor).folder, whole.folder)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["staged", "committed", "moved"])
def test_a_population_killed_during_a_copy_resumes_to_the_same_bits(
    whole: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "population"
    first = next(row["generation"] for row in whole.history.rows if row["copied"])

    def add(history: History, rows: Sequence[dict[str, Any]]) -> None:
        if rows[0]["generation"] == first and moment == "staged":
            raise Killed
        tell(history, rows)
        if rows[0]["generation"] == first and moment == "committed":
            raise Killed

    def replace(source: Path, target: Path) -> None:
        os.replace(source, target)
        raise Killed

    tell = History.add
    with monkeypatch.context() as patch:
        patch.setattr(History, "add", add)
        if moment == "moved":
            patch.setattr("ablation.population.population.os", SimpleNamespace(replace=replace))
        with pytest.raises(Killed):
            train(folder)
    assert list((folder / "exchange").rglob("*.pt")) or moment == "moved"
    same(train(folder).folder, whole.folder)
    assert not (folder / "exchange").exists()


@pytest.mark.slow
def test_members_in_child_processes_give_the_same_bits(whole: Population, tmp_path: Path) -> None:
    arguments = [*TINY, f"folder={tmp_path}", "parallel=1"]
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    # Only the end of one member is missing.
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-3]))
    last = tmp_path / "member-02"
    (last / "result.json").unlink()
    for path in list_checkpoints(last / "checkpoints")[-1:]:
        path.unlink()
    assert population.main(arguments) == 0
    same(tmp_path, whole.folder)


def test_a_copy_has_the_weights_of_the_other_and_keeps_its_counters(whole: Population) -> None:
    own, other = newest(whole.folder, "member-00"), newest(whole.folder, "member-01")
    train = load_train(whole.folder / "member-00" / "config.yaml")
    own["kept"]["best"]["updates"] = own["learner"]["counters"]["updates"]
    content = copy_checkpoint(own, other, train)
    for part in ("network", "optimizer", "popart"):
        torch.testing.assert_close(content["learner"][part], other["learner"][part], rtol=0, atol=0)
    for part in ("positions", "rng", "seconds"):
        assert content[part] is own[part]
    assert content["learner"]["counters"] == own["learner"]["counters"]
    assert {task: row["steps"] for task, row in content["statistics"].items()} == {
        task: row["steps"] for task, row in own["statistics"].items()
    }
    assert fitness_of(content, 1) == Fitness(None, "", 0, own["learner"]["counters"]["updates"])
    assert content["kept"]["best"]["value"] == pytest.approx(fitness_of(other, 1).points / 100)


def test_fitness_is_the_success_of_recent_episodes_in_percent(whole: Population) -> None:
    content = newest(whole.folder, "member-00")
    for number, row in enumerate(content["statistics"].values()):
        row["recent"] = [[0.25, float(number), 5]] * 10
    assert fitness_of(content, 10)[:3] == (50.0, "success", 10)
    assert fitness_of(content, 11)[:3] == (None, "", 10)
    for row in content["statistics"].values():
        row["recent"] = [[0.25, math.nan, 5]] * 10
    assert fitness_of(content, 1)[:2] == (0.25, "return")


@pytest.mark.slow
def test_a_failed_member_continues_as_a_copy_and_is_retried_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cell: Cell) -> int | None:
        # The first run writes a checkpoint but no result.
        if cell.name == "member-01" and cell.pause_at in (500, 0):
            if cell.pause_at:
                cell_process.run(cell.folder, threads=1)
                (cell.folder / "result.json").unlink()
            (cell.folder / "cell.log").write_text("error: it is too bad.\n", encoding="utf-8")
            return 1
        return None

    folder = tmp_path / "population"
    trained = train(folder, "margin=100", executor=Here(fail))
    first = trained.history.of(1)[1]
    assert first["failed"] == "it is too bad." and first["copied"]
    assert not any(row["copied"] for row in trained.history.rows if not row["failed"])
    # The last comparison needs all members.
    assert trained.history.generation == 3
    trained = train(folder, "margin=100")
    assert trained.history.generation == 4


def test_a_population_whose_members_all_fail_gives_the_reason(tmp_path: Path) -> None:
    with pytest.raises(PopulationError, match="every member failed; the first one: exit code 2"):
        train(tmp_path / "population", executor=Here(lambda cell: 2))


def test_results_are_summarized_and_drawn(whole: Population) -> None:
    content = summary(whole.history, whole.names)
    final = {row["member"]: row["fitness"] for row in whole.history.rows[-3:]}
    assert content["best"] == whole.names[max(final, key=lambda member: final[member])]
    assert content["measure"] == "success"
    copies = sum(row["copied"] for row in whole.history.rows)
    assert sum(member["copies"] for member in content["members"].values()) == copies
    assert figure(whole.history, content).startswith(b"\x89PNG")


def test_another_population_or_a_damaged_one_is_refused(whole: Population, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds another population: margin=1.0 \(it has 0.5\)"):
        train(whole.folder, "margin=1")
    with pytest.raises(InputError, match=r"holds another population: members=4 \(it has 3\)"):
        train(whole.folder, "members=4")
    with pytest.raises(InputError, match="member-00 with other settings: core.size=4"):
        train(whole.folder, "core.size=4")
    for text in ("{", '{"generation": 0}', "[" * 100_000, '{"member": NaN}'):
        (tmp_path / "history.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="is damaged"):
            train(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["members=1"], "members=1 is out of range"),
        (["ready_frames=0"], "ready_frames=0 is out of range"),
        (["margin=nan"], "margin=nan is out of range"),
        (["perturb_factor=1"], "perturb_factor=1.0 is out of range"),
        (["perturb_probability=2"], "perturb_probability=2.0 is out of range"),
        (["least_episodes=101"], "least_episodes=101 is out of range: give a number from 1 to 100"),
        (["learning_rates=[1e-3]"], "learning_rates=[0.001] is no range: give a lower and a higher end above 0"),
        (["learning_rates=[1e-3,1e-4]"], "is no range"),
        (["learning_rates=[]", "entropy_costs=[]"], "leave nothing to adapt"),
        (["burn_in_frames=1600"], "no member would ever be compared"),
        (["run=here"], "run=here is not for the members"),
        (["stop_at_success=0.5"], "stop_at_success=0.5 is not for the members"),
        (["evaluate_every=100"], "evaluate_every=100 is not for the members"),
        (["parallel=4096"], "parallel=4096 is more than the"),
        (["env=nowhere"], "env=nowhere is unknown"),
        (["membres=3"], "membres is not a key of the configuration: did you mean members?"),
        (["runtime=cluster"], "runtime.num_actors=0 leaves the number of actors"),
    ],
)
def test_an_invalid_population_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert population.main([*TINY, f"folder={tmp_path / 'population'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_comparisons_start_after_the_burn_in_and_end_with_the_run() -> None:
    config = compose_population([*TINY, "burn_in_frames=0"])
    assert comparison_frames(config) == [400, 800, 1200, 1600]


def test_help_names_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert population.main(["--help"]) == 0
    assert "  burn_in_frames=20000000" in capsys.readouterr().out
