"""Training and evaluation in ViZDoom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluate
import train
from agents.cli.exit_codes import DONE

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind", "process_settings")


@pytest.mark.slow
def test_vizdoom_trains_in_another_process_and_evaluates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vizdoom")
    pytest.importorskip("cv2")
    sizes = ["torso=shallow", "torso.size=16", "core.size=16", "fusion.size=16", "env.image_size=[36,48]"]
    tasks = ["env=vizdoom", "env.tasks=[basic,predict_position]", "env.action_repeat=20", "env.variables=true"]
    slots = ["runtime.num_actors=1", "runtime.slots_per_actor=2", "learner.batch_size=2"]
    run = [f"run={tmp_path}", "total_frames=1200", "display=false"]
    assert train.main([*tasks, *sizes, *slots, *run]) == DONE
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["frames"] >= 1200
    assert {task: row["episodes"] > 0 for task, row in result["tasks"].items()} == {
        "basic": True,
        "predict_position": True,
    }
    assert result["score"] == {}
    assert evaluate.main([f"run={tmp_path}", "episodes=2", "slots=1", "tasks=[predict_position]"]) == DONE
    found = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert found["aggregate"]["success"] is None
    assert found["scores"] == {}
    assert len(found["tasks"]["predict_position"]["returns"]) == 2
    assert "vizdoom" in found["provenance"]["versions"]
    assert "error" not in capfd.readouterr().err
