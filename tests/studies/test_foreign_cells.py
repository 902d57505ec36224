"""Cells that somebody else has made, or damaged: they run again, with a reason, and what is read can be drawn."""

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
from studies.harness.program import Study, conduct
from studies.harness.running import Cell, Checkpoint, Result, Settings, stored

pytestmark = pytest.mark.usefixtures("process_settings")

SMALL = ["quick=true", "seeds=2", "parallel=1", "display=false"]
STUDIES: dict[str, tuple[Study[Any], list[str]]] = {
    "synthetic": (synthetic.STUDY, ["functions=[dot]", "networks=[mi]", "dimensions=[2]"]),
    "regression": (regression.STUDY, ["functions=[affine]", "x_sizes=[2]", "networks=[concat,mi]", "shots=[4]"]),
    "neural_process": (neural_process.STUDY, ["networks=[concat,mi]", "context_sizes=[2,4]"]),
    "language": (language.STUDY, ["networks=[lstm,mlstm]"]),
}


def fabricated(name: str, about: Settings) -> Result:
    """A result of a cell with these settings that nobody has measured."""
    seeds = len(about.get("seeds", []))
    values = [0.25, 0.5, 0.75, 0.3, 0.6][:seeds]
    if name == "synthetic":
        return {"trained": [{"size": 1, "parameters": 9, "errors": values}], "smallest": [9] * seeds}
    if name == "regression":
        points = regression._points(about["steps"])
        sizes = {"width": 3, "parameters": 70, "own": 4, "steps": points, "curve": [values] * len(points)}
        return sizes | {"validation": values, "test": values, "transfer": [values] * len(about["shots"])}
    if name == "neural_process":
        points = neural_process._points(about["steps"])
        sizes = {"width": 3, "parameters": 70, "steps": points, "bounds": [values] * len(points), "validation": values}
        return sizes | {key: [values] * len(about["context_sizes"]) for key in ("target", "context", "exact")}
    rows = {"steps": [0, 5, 9], "validation": [8.0, 5.0, 4.0], "best_step": 9}
    return rows | {"width": 3, "parameters": 70, "bits": 4.0, "nats": 2.5, "sample": "words"}


def never(about: Settings, checkpoint: Checkpoint) -> Result:
    raise AssertionError("every cell is there")


def folder_of(name: str, folder: Path, change: Callable[[Cell, Result], Result] | None = None) -> None:
    """Writes every cell of the study, and makes its findings of them."""
    study, arguments = STUDIES[name]
    config = compose_study(name, [*SMALL, *arguments])
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    for cell in study.cells(config):
        result = fabricated(name, cell.settings)
        result = change(cell, result) if change else result
        content = {"settings": cell.settings, "result": result, "seconds": 1.5}
        (folder / "cells" / f"{cell.name}.json").write_text(json.dumps(content), encoding="utf-8")

    def instead(about: Settings, checkpoint: Checkpoint) -> Result:
        return fabricated(name, about)

    conduct(dataclasses.replace(study, play=instead if change else never), config, folder)


@pytest.mark.parametrize("name", STUDIES)
def test_whole_cells_are_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(name, tmp_path)
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
def test_hostile_cells(name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    def change(cell: Cell, result: Result) -> Result:
        changed: Any = copy.deepcopy(result)
        holder, key = changed, data.draw(st.sampled_from(sorted(changed)))
        while isinstance(holder[key], list | dict) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key] = data.draw(HOSTILE)
        return changed  # type: ignore[no-any-return]

    folder_of(name, tmp_path_factory.mktemp("study"), change)


CELL = Cell(name="one", settings={"a": 1})
WHOLE = {"settings": {"a": 1}, "result": {}, "seconds": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        *("", "[[[[", "[" * 100_000, "null", "3", "\0" * 50, "{}"),
        *(json.dumps(WHOLE | {"seconds": value}) for value in ("x", None, -1, 10**400, float("inf"), float("nan"))),
        *(json.dumps(WHOLE | {"result": value}) for value in (None, [], 3, {"a": "\ud800"})),
        json.dumps(WHOLE | {"result": {"a": [0] * 1_100_000}}),
        json.dumps(WHOLE).replace("1.0", "1e999"),
    ],
    ids=range(19),
)
def test_a_file_that_is_no_cell_counts_as_none(content: str, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "one.json").write_text(content, encoding="utf-8")
    assert stored(CELL, tmp_path, tell=told.append) is None
    assert len(told) == 1 and "one.json is damaged" in told[0]


def test_nor_does_what_is_no_file_at_all(tmp_path: Path) -> None:
    path, told = tmp_path / "one.json", list[str]()
    with path.open("wb") as file:
        file.truncate(2**33)
    assert stored(CELL, tmp_path, tell=told.append) is None
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        assert stored(CELL, tmp_path, tell=told.append) is None
        path.rmdir() if path.is_dir() else path.unlink()
    assert len(told) == 3
    assert stored(CELL, tmp_path, tell=told.append) is None and len(told) == 3


def test_a_cell_of_other_settings_is_passed_over_in_silence(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "one.json").write_text(json.dumps(WHOLE | {"settings": {"a": 2}}), encoding="utf-8")
    assert stored(CELL, tmp_path, tell=told.append) is None and told == []
    (tmp_path / "one.json").write_text(json.dumps(WHOLE), encoding="utf-8")
    assert stored(CELL, tmp_path) is not None
