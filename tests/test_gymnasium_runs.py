"""Complete runs of small gymnasium environments: successes, text, and options in task names."""

from __future__ import annotations

import json
from pathlib import Path

import gym_tasks  # noqa: F401  (spawned actors find it on the same path)
import pytest
import yaml
from saved_agents import evaluated

import train
from agents.evaluation.video import file_names
from agents.storage.checkpoint import list_checkpoints

pytestmark = pytest.mark.usefixtures("process_settings")


def arguments(run: Path, tasks: list[str], *more: str) -> list[str]:
    listed = ",".join(json.dumps(f"gym_tasks:{task}") for task in tasks)
    return [
        *(
            "env=gymnasium",
            f"env.tasks=[{listed}]",
            f"run={run}",
            "torso.hidden=[16]",
            "fusion.size=16",
            "core.size=16",
        ),
        *("runtime.slots_per_actor=4", "runtime.num_actors=1", "learner.unroll_length=8", "learner.batch_size=4"),
        *("learner.passes=1", "precision=fp32", "display=false", "total_frames=600", *more),
    ]


@pytest.mark.parametrize("runtime", ["serial", "local"])
def test_success_reaches_the_result_and_the_evaluation(runtime: str, tmp_path: Path) -> None:
    given = arguments(tmp_path / "run", ["Told-v0"], f"runtime={runtime}", "context=none")
    assert train.main([*given, "fusion.sites=[]"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    # Every other episode, although each ends with a positive reward.
    assert 0.45 <= result["tasks"]["gym_tasks:Told-v0"]["success"] <= 0.55
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = evaluated(path, tmp_path / "out.json", "episodes=8", "slots=2", "allow=[gym_tasks]")
    assert content["tasks"]["gym_tasks:Told-v0"]["success"] == 0.5


@pytest.mark.slow
def test_an_instruction_is_learned_resumed_and_evaluated_with_its_own_words(tmp_path: Path) -> None:
    given = arguments(tmp_path / "run", ["Spoken-v0"], "runtime=serial", "context=instruction", "learner.passes=4")
    given += [
        "runtime.slots_per_actor=16",
        "learner.batch_size=16",
        "learner.discounting=0",
        "learner.learning_rate=3e-3",
    ]
    assert train.main([*given, "learner.anneal=false", "total_frames=12000"]) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["env"]["vocabulary"] == [".", "key", "left", "press", "right", "the"]
    words = json.loads((tmp_path / "run" / "vocabulary.json").read_text(encoding="utf-8"))["words"]
    assert words == ["<pad>", "<unk>", *saved["env"]["vocabulary"]]
    # The same command again: the settled configuration still matches it.
    assert train.main([*given, "learner.anneal=false", "resume=true", "total_frames=13000"]) == 0
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    # Another task with other words, which are encoded with the vocabulary of the run.
    tasks = 'tasks=["gym_tasks:Spoken-v0","gym_tasks:Spoken-v0(words=\\"go west\\")"]'
    content = evaluated(path, tmp_path / "out.json", "episodes=40", "allow=[gym_tasks]", tasks, "greedy=true")
    informed, blind = (row["mean"] for row in content["tasks"].values())
    assert informed > 4.5 and blind < 4


def test_task_names_with_options_work_in_every_program(tmp_path: Path) -> None:
    tasks = ["Level-v0(level=1)", "Level-v0(level=2, end=4)", "Level-v0(name='a/../b')"]
    names = [f"gym_tasks:{task}" for task in tasks]
    given = arguments(tmp_path / "run", tasks, "runtime=local", "runtime.slots_per_actor=6", "learner.batch_size=6")
    assert train.main(given) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert {task: row["return"] for task, row in result["tasks"].items()} == dict(zip(names, (3, 8, 0), strict=True))
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"checkpoints"}
    assert all("/" not in name and "(" not in name for name in file_names(names).values())
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    chosen = f"tasks=[{json.dumps(names[1])}]"
    content = evaluated(path, tmp_path / "out.json", "episodes=2", chosen, "allow=[gym_tasks,a/../b]")
    assert content["tasks"][names[1]]["mean"] == 8
