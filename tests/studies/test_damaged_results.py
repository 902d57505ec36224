"""Damaged and hostile result files: their jobs run again with a warning, and every file that is accepted can be drawn."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.loading import compose_study
from studies import language, neural_process, regression, synthetic
from studies.harness.jobs import Checkpoint, Job, Result, Settings, stored
from studies.harness.program import Study, conduct, make_jobs
from studies.models.ensembles import curve_points

pytestmark = pytest.mark.usefixtures("process_settings")

SMALL = ["quick=true", "seeds=2", "parallel=1", "display=false"]
STUDIES: dict[str, tuple[Study[Any], list[str]]] = {
    "synthetic": (synthetic.STUDY, ["functions=[dot]", "networks=[mi]", "dimensions=[2]"]),
    "regression": (regression.STUDY, ["functions=[affine]", "x_sizes=[2]", "networks=[concat,mi]", "shots=[4]"]),
    "neural_process": (neural_process.STUDY, ["networks=[concat,mi]", "context_sizes=[2,4]"]),
    "language": (language.STUDY, ["networks=[lstm,mlstm]"]),
}


def make_result(name: str, about: Settings) -> Result:
    """An invented result of a job with these settings."""
    seeds = len(about.get("seeds", []))
    values = [0.25, 0.5, 0.75, 0.3, 0.6][:seeds]
    if name == "synthetic":
        return {"trained": [{"size": 1, "parameters": 9, "errors": values}], "smallest": [9] * seeds}
    if name == "regression":
        points = curve_points(1, about["steps"], regression.POINTS)
        sizes = {"width": 3, "parameters": 70, "own": 4, "steps": points, "curve": [values] * len(points)}
        return sizes | {"validation": values, "test": values, "transfer": [values] * len(about["shots"])}
    if name == "neural_process":
        points = curve_points(10, about["steps"], neural_process.POINTS)
        sizes = {"width": 3, "parameters": 70, "steps": points, "bounds": [values] * len(points), "validation": values}
        return sizes | {key: [values] * len(about["context_sizes"]) for key in ("target", "context", "exact")}
    rows = {"steps": [0, 5, 9], "validation": [8.0, 5.0, 4.0], "best_step": 9}
    return rows | {"width": 3, "parameters": 70, "bits": 4.0, "nats": 2.5, "sample": "words"}


def never(about: Settings, checkpoint: Checkpoint) -> Result:
    raise AssertionError("every result is stored")


def conduct_with_stored_results(name: str, folder: Path, change: Callable[[Result], Result] | None = None) -> None:
    """Stores an invented result for every job of the study, changed by `change`, and conducts the study."""
    study, arguments = STUDIES[name]
    config = compose_study(name, [*SMALL, *arguments])
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    for job in make_jobs(study, config, folder).values():
        result = make_result(name, job.settings)
        content = {"settings": job.settings, "result": change(result) if change else result, "seconds": 1.5}
        job.result_path.write_text(json.dumps(content), encoding="utf-8")

    def play(about: Settings, checkpoint: Checkpoint) -> Result:
        return make_result(name, about)

    conduct(dataclasses.replace(study, play=play if change else never), config, folder)


@pytest.mark.parametrize("name", STUDIES)
def test_valid_results_are_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conduct_with_stored_results(name, tmp_path)
    assert (tmp_path / "results.json").exists() and capsys.readouterr().err == ""


HOSTILE = st.sampled_from(
    [
        None,
        True,
        "",
        "\udcff",
        "\x1b[2J",
        [],
        {},
        [[[]]],
        [None],
        ["x"],
        {"a": {}},
        0,
        -1,
        2.5,
        10**400,
        1e308,
        -1e308,
        1e-320,
    ]
) | st.sampled_from([float("nan"), float("inf"), [1.0] * 7, [0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_studies_survive_hostile_results(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def change(result: Result) -> Result:
        changed: Any = copy.deepcopy(result)
        holder, key = changed, data.draw(st.sampled_from(sorted(changed)))
        while isinstance(holder[key], list | dict) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key] = data.draw(HOSTILE)
        return changed  # type: ignore[no-any-return]

    conduct_with_stored_results(name, tmp_path_factory.mktemp("study"), change)


VALID = {"settings": {"a": 1}, "result": {}, "seconds": 1.0}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(name="one", settings={"a": 1}, folder=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[[[[", "[" * 100_000, "null", "3", "\0" * 50, "{}"),
        *(json.dumps(VALID | {"seconds": value}) for value in ("x", None, -1, 10**400, float("inf"), float("nan"))),
        *(json.dumps(VALID | {"result": value}) for value in (None, [], 3, {"a": "\ud800"})),
        json.dumps(VALID | {"result": {"a": [0] * 1_100_000}}),
        json.dumps(VALID).replace("1.0", "1e999"),
    ],
    ids=range(19),
)
def test_a_damaged_result_is_not_read(content: str, job: Job) -> None:
    warnings: list[str] = []
    job.result_path.write_text(content, encoding="utf-8")
    assert stored(job, warn=warnings.append) is None
    assert len(warnings) == 1 and "one.json is damaged" in warnings[0]


def test_large_files_pipes_and_folders_are_not_read(job: Job) -> None:
    path, warnings = job.result_path, list[str]()
    with path.open("wb") as file:
        file.truncate(2**33)
    assert stored(job, warn=warnings.append) is None
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        assert stored(job, warn=warnings.append) is None
        path.rmdir() if path.is_dir() else path.unlink()
    assert len(warnings) == 3
    assert stored(job, warn=warnings.append) is None and len(warnings) == 3


def test_a_result_of_other_settings_is_ignored_without_a_warning(job: Job) -> None:
    warnings: list[str] = []
    job.result_path.write_text(json.dumps(VALID | {"settings": {"a": 2}}), encoding="utf-8")
    assert stored(job, warn=warnings.append) is None and warnings == []
    job.result_path.write_text(json.dumps(VALID), encoding="utf-8")
    assert stored(job) is not None
