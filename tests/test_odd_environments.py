"""Runs and evaluations of environments with unusual behaviour, from the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gym_oddities
import pytest
import yaml
from gymnasium import spaces
from saved_agents import make_checkpoint

import evaluate
import train
from agents.network.torso import DeepTorso, ShallowTorso, build_torso
from agents.storage.checkpoint import load_checkpoint
from conf.loading import compose_train, load_train, train_from_dict
from envs.spec import ArraySpec, EnvSpec
from envs.suites import make_spec
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")


def gymnasium(task: str) -> list[str]:
    return ["env=gymnasium", f"env.tasks=[gym_oddities:{task}-v0]"]


def small(task: str, *more: str) -> list[str]:
    sizes = ["torso.hidden=[8]", "fusion.size=8", "core.size=8", "learner.unroll_length=4", "learner.batch_size=4"]
    return [*gymnasium(task), *sizes, "runtime=serial", "runtime.slots_per_actor=4", "display=false", *more]


def evaluated(path: Path, *more: str) -> int:
    return evaluate.main([f"run={path}", "episodes=2", "allow=[gym_oddities]", *more])


def test_relative_paths_start_at_the_working_directory_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although every reset changes the working directory, and some of those folders are removed."""
    monkeypatch.chdir(tmp_path)
    assert train.main(small("Removes", "run=here/run", "total_frames=100")) == 0
    assert Path("here/run/result.json").exists()
    assert evaluated(Path("here/run"), "output=there/out.json") == 0
    assert Path("there/out.json").exists() and Path.cwd() == tmp_path
    assert train.main(small("Removes", "run=here/run", "total_frames=200", "resume=true")) == 0
    assert json.loads(Path("here/run/result.json").read_text())["frames"] >= 200


@pytest.mark.parametrize("processes", ["false", "true"])
def test_a_video_that_cannot_be_drawn_does_not_cost_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: str
) -> None:
    pytest.importorskip("imageio")
    tasks = ",".join(f"gym_oddities:{name}-v0" for name in ("DrawsBadly", "Plain"))
    path = make_checkpoint(tmp_path, "env=gymnasium", f"env.tasks=[{tasks}]", f"env.processes={processes}")
    output = tmp_path / "out.json"
    assert evaluated(path, f"output={output}", "video=true", "video_episodes=1") == 0
    said = capsys.readouterr().err
    assert len(json.loads(output.read_text())["tasks"]) == 2
    assert "video=true cannot draw gym_oddities:DrawsBadly-v0 (OSError: no display): " in said
    assert "Traceback" not in said and len(os.listdir(tmp_path / "videos")) == 1


def test_an_environment_that_violates_its_interface_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("OldReset", "OldStep", "FailsAtOnce"):
        assert train.main(small(task, f"run={tmp_path / 'run'}")) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: env.tasks=gym_oddities:{task}-v0 ") and said.count("\n") == 1
        assert not (tmp_path / "run").exists()


# Runs of earlier versions


def test_runs_of_versions_without_picture_recognition_keep_their_observations(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(small("Plain", f"run={run}", "total_frames=100")) == 0
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["env"].pop("pictures") == "auto"
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    assert load_train(run / "config.yaml").env.pictures == "channels_last"  # type: ignore[attr-defined]
    assert train.main(small("Plain", f"run={run}", "total_frames=200", "resume=true")) == 0
    assert load_train(run / "config.yaml").env.pictures == "channels_last"  # type: ignore[attr-defined]


def test_checkpoints_of_earlier_versions_play_with_their_vector(tmp_path: Path) -> None:
    grey: Any = spaces.Box(0, 255, (30, 30), "uint8")
    gym_oddities.gymnasium.register("Grey-v0", gym_oddities.Returns, kwargs={"space": grey, "seen": grey.sample()})
    tasks = ["env=gymnasium", "env.tasks=[gym_oddities:Grey-v0]"]
    old = load_checkpoint(make_checkpoint(tmp_path, *tasks, "env.pictures=channels_last"))
    del old["config"]["env"]["pictures"]
    assert make_spec(train_from_dict(old["config"], "it").env).observation["vector"].shape == (900,)
    assert make_spec(compose_train(tasks).env).observation["image"].shape == (30, 30, 1)


# Torsos


def pixels(height: int, width: int) -> EnvSpec:
    return EnvSpec(
        suite="gymnasium",
        tasks=("a",),
        observation={"image": ArraySpec(shape=(height, width, 3), dtype="uint8")},
        instruction_length=0,
        vocabulary=(),
        num_actions=2,
        action_counts=(2,),
        image_kind="pixels",
    )


def test_small_pictures_have_a_torso() -> None:
    assert isinstance(build_torso("auto", pixels(7, 7)), DeepTorso)
    assert isinstance(build_torso("auto", pixels(84, 19)), DeepTorso)
    assert isinstance(build_torso("auto", pixels(20, 20)), ShallowTorso)
    with pytest.raises(InputError, match="torso=shallow needs images of at least 20x20 .*: use torso=deep"):
        build_torso("shallow", pixels(7, 7))
