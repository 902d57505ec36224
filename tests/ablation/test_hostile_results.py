"""Fuzzed result files: the run is reported on, or left out with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import write_run

from ablation.load import load_folders, load_grid
from system.errors import InputError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "../../x", "map-0", "return", "\x1b[2J", "\udcff", "\ud800"]),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.sampled_from(["map-0", "mean", "tasks", "x"]), parts, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25)
@given(
    name=st.sampled_from(["result.json", "evaluation.json", "cell.json", "provenance.json", "agent.json"]),
    value=JSON,
    data=st.data(),
)
def test_hostile_results_are_reported_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any, data: st.DataObject
) -> None:
    """Any value in any file of a run."""
    folder = _results(tmp_path_factory)
    path = folder / "other" / name
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    content = json.loads(before or "{}")
    holder: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(holder) or ["variant"]))
        if not isinstance(holder.get(key), dict) or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        load_folders([str(folder)], "return")
    except InputError as error:
        pytest.fail(str(error))
    finally:
        path.write_text(before, encoding="utf-8") if before else path.unlink()


def _results(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "results"
    if not folder.exists():
        write_run(folder / "one", "fusion=mi")
        write_run(folder / "other", "fusion=concat")
    return folder


@pytest.mark.parametrize("name", ["..", "a/b", "/etc", "", "."])
def test_a_grid_names_only_folders_inside_it(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "run")
    grid = {"cells": [{"name": name, "variant": "mi", "seed": 0}], "command": []}
    (tmp_path / "grid.json").write_text(json.dumps(grid), encoding="utf-8")
    with pytest.raises(InputError, match="the name of a folder"):
        load_grid(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", '{"cells": [[[]]]}', "[]", "\0"])
def test_an_invalid_grid_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load_grid(tmp_path)
