"""Run folders become results; runs that are left out have a reason."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from run_folders import TASKS, change, composed, write_json, write_run

from ablation.analysis.results import Results
from ablation.load import load_folders, load_grid
from conf.loading import compose_train
from envs.spec import Score
from envs.suites import make_spec
from system.errors import InputError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two fusions, read only."""
    return written(tmp_path_factory.mktemp("runs"))


def written(tmp_path: Path) -> Path:
    """Two seeds of two fusions."""
    for fusion, returns in (("concat", 0.4), ("mi", 0.8)):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{fusion}-seed{seed}", f"fusion={fusion}", f"seed={seed}", returns=returns + seed / 10
            )
    return tmp_path


def reasons(results: Results) -> dict[str, str]:
    return dict(results.problems)


def test_run_folders_are_read_completely(runs: Path) -> None:
    results = load_folders([str(runs)], "return")
    assert results.variants == ("concat", "mi")
    assert results.tasks == TASKS
    assert not results.problems
    assert [run.name for run in results.runs] == ["concat-seed0", "concat-seed1", "mi-seed0", "mi-seed1"]
    np.testing.assert_allclose(results.matrix("mi"), [[0.8, 0.8], [0.9, 0.9]])
    run = results.of("mi")[1]
    assert (run.seed, run.parameters, run.multiply_adds, run.frames, run.episodes) == (1, 99, 11, 1024, 10)
    assert run.probed == {"swap": {"map-0": 0.0, "map-1": 0.0}}
    np.testing.assert_array_equal(run.curve.frames, [128, 512, 896])
    np.testing.assert_allclose(run.curve.values["map-0"], [np.nan, 0.9 * 4 / 7, 0.9])
    assert run.config["fusion.name"] == "mi"


def test_training_alone_is_read_from_unfinished_runs(tmp_path: Path) -> None:
    """Runs of other lengths too; a run without an episode has a reason."""
    written(tmp_path)
    for name in ("result.json", "evaluation.json"):
        (tmp_path / "mi-seed1" / name).unlink()
    write_run(tmp_path / "longer", "fusion=film", "total_frames=4096", returns=0.5)
    write_run(tmp_path / "empty", "fusion=film", "seed=1", returns=0.5)
    (tmp_path / "empty" / "metrics.jsonl").unlink()
    results = load_folders([str(tmp_path)], "return", evaluated=False)
    assert reasons(results) == {"empty": "its metrics.jsonl has no episode yet: wait for its first log step."}
    assert {run.name for run in results.runs} == {"concat-seed0", "concat-seed1", "mi-seed0", "mi-seed1", "longer"}
    expected = load_folders([str(tmp_path / "mi-seed0")], "return").runs[0].curve
    curve = next(run for run in results.runs if run.name == "mi-seed0").curve
    np.testing.assert_array_equal(curve.frames, expected.frames)
    for task in TASKS:
        np.testing.assert_array_equal(curve.values[task], expected.values[task])


def test_success_can_be_the_measure(runs: Path) -> None:
    results = load_folders([str(runs)], "success")
    assert results.measure.best == 1
    np.testing.assert_allclose(results.matrix("mi"), [[0.4, 0.4], [0.45, 0.45]])
    np.testing.assert_allclose(results.of("mi")[0].curve.values["map-1"][-1], 0.4)


def test_returns_become_scores_if_every_task_has_reference_scores(runs: Path) -> None:
    results = load_folders([str(runs)])
    scores = make_spec(composed().env).scores
    blind = scores["map-0"].random
    assert 0.5 < blind < 0.7
    assert (results.measure.name, results.measure.best, results.measure.floor) == ("score", 1, 0)
    run = results.of("mi")[0]
    assert run.values["map-0"] == pytest.approx((0.8 - blind) / (1 - blind))
    assert run.probed["swap"]["map-0"] == pytest.approx(-blind / (1 - blind))
    assert run.curve.values["map-1"][-1] == pytest.approx((0.8 - blind) / (1 - blind))


def test_returns_become_percentages_between_published_ends(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = dict.fromkeys(TASKS, Score(random=-1.0, human=3.0, reference="maximum"))
    monkeypatch.setattr("ablation.load.reference_scores", lambda config: published)
    results = load_folders([str(runs)])
    assert (results.measure.name, results.measure.best, results.measure.floor) == ("score", 100, 0)
    assert "maximum 100" in results.measure.label
    assert results.of("mi")[0].values["map-0"] == pytest.approx(45)


def test_runs_that_cannot_be_compared_are_problems_and_the_rest_is_reported(tmp_path: Path) -> None:
    written(tmp_path)
    write_run(tmp_path / "unfinished", "fusion=film")
    change(tmp_path / "unfinished" / "result.json", finished=False)
    write_run(tmp_path / "unevaluated", "fusion=film")
    (tmp_path / "unevaluated" / "evaluation.json").unlink()
    write_run(tmp_path / "trained-on", "fusion=film")
    change(tmp_path / "trained-on" / "result.json", updates=8)
    write_run(tmp_path / "torn", "fusion=film")
    (tmp_path / "torn" / "config.yaml").write_text("env: [", encoding="utf-8")
    write_run(tmp_path / "longer", "fusion=film", "total_frames=2000")
    write_run(tmp_path / "other-tasks", "fusion=film", tasks=("map-0",))
    write_run(tmp_path / "other-delay", "fusion=film", "env.delay=9")
    write_run(tmp_path / "fewer-episodes", "fusion=film", episodes=9)
    write_run(tmp_path / "twice", "fusion=mi", "seed=1", returns=0.1)
    write_run(tmp_path / "film-seed0", "fusion=film")
    results = load_folders([str(tmp_path)])
    assert results.variants == ("concat", "film", "mi")
    assert len(results.runs) == 5
    expected = reasons(results)
    for name, part in {
        "unfinished": "its training is not finished: continue it with python train.py run=",
        "unevaluated": "it has no evaluation: make one with python evaluate.py run=",
        "trained-on": "its training continued after its evaluation: make a new one with python evaluate.py run=",
        "torn": "cannot be read as YAML",
        "longer": "its total_frames is 2,000, but that of most runs is 1,000.",
        "other-tasks": "list of tasks is map-0, but that of most runs is map-0, map-1",
        "other-delay": "suite's configuration",
        "fewer-episodes": "number of evaluation episodes is 9, but that of most runs is 10",
        "twice": "it is a second run of mi with seed 1: the report has mi-seed1.",
    }.items():
        assert part in expected.pop(name), name
    assert not expected
    assert results.of("mi")[1].values["map-0"] > 0.5


def test_a_run_that_has_not_started_is_a_problem(tmp_path: Path) -> None:
    written(tmp_path)
    cells = [{"name": name, "variant": name.split("-")[0], "seed": 0} for name in ("mi-seed0", "mi-seed1", "mi-seed2")]
    write_json(tmp_path / "grid.json", {"cells": cells, "command": ["python", "ablate.py", "fusions=[mi]"]})
    results = load_grid(tmp_path)
    assert results.command == "python ablate.py fusions=[mi]"
    assert [run.name for run in results.runs] == ["mi-seed0", "mi-seed1"]
    assert reasons(results) == {"mi-seed2": "its folder has no config.yaml: the run has not started."}


def test_variants_are_named_by_the_keys_that_differ(tmp_path: Path) -> None:
    # fusion.size follows from the fusion, and who has how many cores is no part of the experiment: only the rate makes variants.
    write_run(tmp_path / "a", "fusion=mi", "fusion.size=8")
    write_run(tmp_path / "b", "fusion=mi", "fusion.size=8", "learner.learning_rate=0.5")
    write_run(tmp_path / "c", "fusion=concat", "fusion.size=9", "learner.learning_rate=0.5", "runtime.num_actors=2")
    results = load_folders([str(tmp_path / name) for name in "abc"])
    assert results.variants == (
        "mi learner.learning_rate=0.005",
        "mi learner.learning_rate=0.5",
        "concat learner.learning_rate=0.5",
    )


def test_truncated_log_lines_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"updates": 8, "fra')
    assert len(load_folders([str(run)]).runs[0].curve.frames) == 3


@pytest.mark.parametrize(
    ("folders", "measure", "message"),
    [
        (["nowhere"], "auto", "does not exist"),
        (["empty"], "auto", "No run can be reported on. empty: its folder has no config.yaml"),
        (["run"], "score", "measure=score is not known"),
    ],
)
def test_folders_without_reportable_runs_are_refused(
    tmp_path: Path, folders: list[str], measure: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run", "env.tasks=[memory-0]", tasks=("unheard-of",))
    with pytest.raises(InputError, match=message) as error:
        load_folders([str(tmp_path / name) for name in folders], measure)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"report=.* is not a folder that ablate\.py has filled \(no valid grid\.json\): give the"
    ):
        load_grid(tmp_path)
    (tmp_path / "grid.json").write_text(json.dumps({"cells": []}), encoding="utf-8")
    with pytest.raises(InputError, match="is not a folder that"):
        load_grid(tmp_path)


def test_the_command_in_a_reason_is_quoted_for_the_shell(tmp_path: Path) -> None:
    """The run folder is quoted for the shell and for the program."""
    unfinished = write_run(tmp_path / "lr=0.1 again", "fusion=mi")
    write_run(tmp_path / "whole", "fusion=mi", "seed=1")
    (unfinished / "result.json").unlink()
    (reason,) = reasons(load_folders([str(tmp_path)])).values()
    command = shlex.split(reason.partition("continue it with ")[2].removesuffix("."))
    assert command[:2] == ["python", "train.py"] and command[3:] == ["resume=true"]
    assert compose_train([command[2]]).run == str(unfinished.resolve())


def test_the_message_about_a_damaged_file_gives_the_fix(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "fusion=mi")
    write_run(tmp_path / "whole", "fusion=mi", "seed=1")
    (tmp_path / "run" / "result.json").write_text('{"finished": 3}', encoding="utf-8")
    (reason,) = reasons(load_folders([str(tmp_path)])).values()
    assert "is damaged, or another program wrote it (it holds " in reason
    assert reason.endswith("): put back a copy, or leave the run out of the report.")
