"""Evaluation under noise on the context: the section and the curve, and what an agent that was trained under noise is evaluated with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saved_agents import CONDITIONAL, damaged, evaluated, make_checkpoint
from tiny_runs import refusal

import evaluate
import mimpala
import train
from agents.evaluation import intervals, noise_curve
from agents.evaluation.noise_curve import FILE, draw
from agents.storage.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("tests_keep_their_threads")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the figure, which takes a second, and with few resamples."""
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    monkeypatch.setattr(noise_curve, "write", lambda figure, path: path)
    monkeypatch.setattr(noise_curve, "draw", lambda sections: None)


def strong(folder: Path, *overrides: str) -> Path:
    """A checkpoint of an agent whose actions depend on its context: large random weights."""
    path = make_checkpoint(folder, *CONDITIONAL, "fusion=mi", "fusion.sites=[policy]", *overrides)

    def enlarge(content: dict[str, Any]) -> None:
        for name, weight in content["learner"]["network"].items():
            if name.startswith("fusions"):
                weight.mul_(10)

    return damaged(path, path, enlarge)


@pytest.mark.usefixtures("undrawn")
def test_levels_of_noise_add_a_section_and_leave_the_evaluation_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, output = strong(tmp_path), tmp_path / "out.json"
    plain = evaluated(checkpoint, output, "episodes=12")
    assert "noise" not in plain
    found = evaluated(checkpoint, output, "episodes=12", "noise=[2,0,0.5]")
    printed = capsys.readouterr().out
    sections = found.pop("noise")
    assert found == plain
    assert list(sections) == ["0", "0.5", "2"]
    assert [section["snr"] for section in sections.values()] == [
        None,
        pytest.approx(6.02, abs=0.01),
        pytest.approx(-6.02, abs=0.01),
    ]
    for level, section in sections.items():
        assert list(section) == ["snr", "note", "interval", "tasks", "aggregate"]
        assert section["tasks"].keys() == plain["tasks"].keys()
        assert section["aggregate"]["unchanged"] == (level == "0")
        for task, row in section["tasks"].items():
            assert row["seeds"] == plain["tasks"][task]["seeds"]
    assert sections["0"]["aggregate"]["success"] == plain["aggregate"]["success"]
    (line,) = [line for line in printed.splitlines() if line.startswith("0.5 ")]
    assert "6.0" in line and f"{sections['0.5']['aggregate']['success']:.1%}" in line
    # The same again, and one level by itself as among others.
    again = evaluated(checkpoint, tmp_path / "2.json", "episodes=12", "noise=0.5")["noise"]
    assert again == {"0.5": sections["0.5"]}
    assert evaluated(checkpoint, tmp_path / "2.json", "episodes=12", "noise=0.5", "seed=1")["noise"] != again


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_with_other_levels_is_kept(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, *CONDITIONAL)
    for levels in ("noise=1", "noise=[]", "noise=[]"):
        assert evaluate.main([f"run={checkpoint}", "episodes=2", levels]) == 0
    assert len(list(tmp_path.glob("evaluation*.json"))) == 2


@pytest.mark.usefixtures("undrawn")
def test_noise_stays_as_in_training_and_dropout_does_not(tmp_path: Path) -> None:
    (tmp_path / "noisy").mkdir()
    plain = strong(tmp_path)
    noisy = shutil.copy(plain, tmp_path / "noisy" / plain.name)
    damaged(noisy, noisy, lambda content: content["config"]["context"].update(noise=2.0, dropout=1.0))
    one = evaluated(plain, tmp_path / "1.json", "episodes=12", "noise=2")
    two = evaluated(noisy, tmp_path / "2.json", "episodes=12", "noise=[0,2]")
    assert two["tasks"] == {
        task: {key: row[key] for key in two["tasks"][task]} for task, row in one["noise"]["2"]["tasks"].items()
    }
    assert two["noise"]["2"]["aggregate"]["unchanged"]
    assert not two["noise"]["0"]["aggregate"]["unchanged"]
    assert {key: two["noise"]["0"]["tasks"]["map-0"][key] for key in one["tasks"]["map-0"]} == one["tasks"]["map-0"]
    assert two["provenance"]["context_noise"] == 2 and "context_noise" not in one["provenance"]


def test_an_agent_of_the_python_api_reads_the_context_without_noise(tmp_path: Path) -> None:
    plain = strong(tmp_path)
    (tmp_path / "noisy").mkdir()
    noisy = shutil.copy(plain, tmp_path / "noisy" / plain.name)
    damaged(noisy, noisy, lambda content: content["config"]["context"].update(noise=2.0, dropout=0.5))
    assert load_checkpoint(noisy)["config"]["context"]["noise"] == 2
    agents = [mimpala.load(str(path)) for path in (plain, noisy)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation = rng.normal(size=agents[0].spec.observation["vector"].shape).astype(np.float32)
        first, second = (agent.act(observation, task="map-1") for agent in agents)
        assert first == second


@pytest.mark.usefixtures("undrawn")
def test_an_agent_without_context_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint(tmp_path, *CONDITIONAL, "context=none")
    section = evaluated(checkpoint, tmp_path / "out.json", "episodes=4", "noise=1")["noise"]["1"]
    assert section["aggregate"]["unchanged"] and section["aggregate"]["success_drop_interval"] == [0, 0]
    assert capsys.readouterr().out.count("no context") == 1


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("noise", "dropout"):
        message = refusal(capsys, "env=conditional", "context=none", f"context.{key}=0.5", f"run={tmp_path / 'run'}")
        assert message == f"error: context.{key}=0.5 needs a context and context=none has none: leave it out.\n"
        assert f"context.{key}=-1" in refusal(capsys, "env=conditional", f"context.{key}=-1")
    for arguments, start in (
        (["noise=[-1]"], "noise=[-1.0] is out of range"),
        (["noise=1", "watch=true"], "watch=true"),
    ):
        assert evaluate.main([f"run={tmp_path}", *arguments]) == 2
        assert capsys.readouterr().err.startswith(f"error: {start}")


# The figure


def section(success: float | None, mean: float, snr: float | None) -> dict[str, Any]:
    row = {"success": success, "success_interval": [0.0, 1.0], "mean": mean, "interval": None}
    return {"snr": snr, "tasks": {"a $1": row, "b $2": row}, "aggregate": row}


@pytest.mark.parametrize("success", [0.5, None])
def test_the_figure_shows_the_mean_and_every_task(success: float | None) -> None:
    figure = draw(
        {"0": section(success, 1.0, None), "1": section(success, 0.3, 0.0), "4": section(success, 0.2, -12.0)}
    )
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["a $1", "b $2", "mean"]
    assert list(axes.lines[-1].get_ydata()) == ([0.5] * 3 if success else [1.0, 0.3, 0.2])
    assert list(axes.lines[-1].get_xdata()) == [0, 1, 4]
    assert axes.get_ylabel() == ("success" if success else "return")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\nno noise", "1\n0 dB", "4\n-12 dB"]
    # An interval that is unknown at one level is not drawn.
    assert bool(axes.collections) == (success is not None)


@pytest.mark.slow
@pytest.mark.usefixtures("process_settings")
def test_success_falls_with_the_noise_and_less_in_an_agent_that_trained_with_it(tmp_path: Path) -> None:
    curves = {}
    for noise in (0, 1):
        folder = tmp_path / str(noise)
        tasks = ["env=conditional", "env.tasks=[map-0,map-1,map-2]", "fusion=mi", f"context.noise={noise}"]
        torch.manual_seed(0)
        options = [*tasks, "runtime=serial", "display=false", "total_frames=50000", f"run={folder}"]
        assert train.main(options) == 0
        assert evaluate.main([f"run={folder}", "noise=[0,1,8]"]) == 0
        assert (folder / FILE).read_bytes().startswith(b"\x89PNG")
        content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        curves[noise] = [section["aggregate"]["success"] for section in content["noise"].values()]
        assert curves[noise] == sorted(curves[noise], reverse=True)
    # Without a context a quarter to a third is right.
    assert curves[0][0] > 0.7 and curves[0][2] < 0.5
