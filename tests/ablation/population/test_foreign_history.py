"""Damaged or foreign histories and checkpoints of a population are refused in one sentence, or resumed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_agents import make_checkpoint

from ablation.population import population as populations
from ablation.population.history import History
from ablation.population.pbt import Decision
from ablation.population.population import Fitness, Population, row_of
from ablation.population.report import summary, table, write_summary
from agents.cli.terminal import TextConsole
from agents.storage.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from conf.loading import compose_population
from system.errors import InputError

MEMBERS, GENERATIONS = 3, 3
SMALL = ("env=conditional", "runtime=serial", f"members={MEMBERS}", "display=false")


def rows() -> list[dict[str, Any]]:
    """Rows as a population writes them."""
    decision = Decision(None, False, {"learning_rate": 1e-3, "entropy_cost": 1e-2})
    return [
        row_of(generation, 1000 * generation, member, Fitness(10.0 * member, "success", 20, generation), decision)
        for generation in range(GENERATIONS)
        for member in range(MEMBERS)
    ]


def begin(folder: Path, lines: list[Any]) -> Population:
    """Resumes a population with this history, and reports, without training."""
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    (folder / "population.json").unlink(missing_ok=True)
    found = Population(compose_population([*SMALL, f"folder={folder}"]))
    found.begin(["test"])
    content = summary(found.history, found.names)
    write_summary(folder, content, found.history)
    TextConsole().print(table(content))
    return found


def test_a_complete_history_is_resumed(tmp_path: Path) -> None:
    assert begin(tmp_path, rows()).history.generation == GENERATIONS - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": 10**12},
        {"generation": 0},
        {"member": 0},
        {"member": 10**12},
        {"hyperparameters": {"learning_rate": 1e-3}},
        {"hyperparameters": {"learning_rate": 1e-3, "entropy_cost": 1e-2, "x": 1.0}},
        {"hyperparameters": {"learning_rate": 1e-3, "entropy_cost": -1e-2}},
        {"hyperparameters": {"learning_rate": 1e-3, "entropy_cost": 0}},
        {"compared_with": MEMBERS},
        {"compared_with": 10**12, "copied": True},
        {"copied": True},
        {"fitness": 1e308},
        {"fitness": 10**400},
        {"frames": float("inf")},
        {"measure": "\ud800"},
        {"failed": None},
    ],
    ids=range(16),
)
def test_an_invalid_row_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    lines = rows()
    lines[-1] |= changes
    with pytest.raises(InputError, match=r"holds a history that does not fit members=|is damaged") as caught:
        begin(tmp_path, lines)
    assert "\n" not in str(caught.value)


def test_an_incomplete_generation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit members="):
        begin(tmp_path, rows()[:-1])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_hostile_histories_are_refused_or_resumed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = rows()
    holder: Any = data.draw(st.sampled_from(lines))
    key = data.draw(st.sampled_from(sorted(holder)))
    if key == "hyperparameters" and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder)))
    holder[key] = data.draw(
        st.sampled_from([None, True, "", "\udcff", "\x1b[2J", [], {}, 0, 1, -1, 0.5, 1e-320, 1e300, 1e30, 10**400])
        | st.floats()
    )
    with contextlib.suppress(InputError):
        begin(tmp_path_factory.mktemp("population"), lines)


@pytest.mark.parametrize(
    "text", ["[[[[", "[" * 100_000, "\0", "1e999\n", '{"frames": 1e999}', "{}", "\ud800", "3\n" * 9]
)
def test_a_file_with_other_content_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.jsonl").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match="is damaged"):
        History(tmp_path)


def test_a_history_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        make(path)
        with pytest.raises(InputError, match="is damaged"):
            History(tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(InputError, match="larger than"):
        History(tmp_path)


@pytest.mark.parametrize("damage", ["tasks", "counters", "kept"])
def test_a_checkpoint_without_required_content_is_refused(tmp_path: Path, damage: str) -> None:
    """An intact checkpoint may lack content that a comparison needs."""
    found = begin(tmp_path, rows())
    for name in found.names:
        path = make_checkpoint(tmp_path / name / "checkpoints")
        content = load_checkpoint(path)
        if damage == "tasks":
            content["statistics"].clear()
        elif damage == "counters":
            content["learner"]["counters"].clear()
        else:
            content["kept"] = {"best": {}}
            content["learner"].pop("counters")
        save_checkpoint(path.parent, 0, content)
    assert list_checkpoints(tmp_path / found.names[0] / populations.CHECKPOINTS)
    with pytest.raises(InputError, match="checkpoint that is not readable"):
        found.compare(GENERATIONS, 1000 * GENERATIONS, {})
