"""Input that evaluate.py refuses with one sentence and exit code 2. Code in a file is never executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_agents import Damage, damaged

import evaluate


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that evaluate.py prints."""
    assert evaluate.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_an_agent_that_reads_task_ids_refuses_untrained_tasks(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "tasks=map-5 was not trained" in refusal(capsys, f"run={checkpoint}", "tasks=[map-0,map-5]")


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("container", ["torch", "torch, inside a real checkpoint", "pickle", "legacy"])
def test_a_checkpoint_that_would_run_code_does_not(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], container: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "bad.pt"
    if container == "pickle":
        path.write_bytes(pickle.dumps(Bomb(marker)))
    elif container.startswith("torch,"):
        damaged(checkpoint, path, _put("rng", value=Bomb(marker)))
    else:
        torch.save(Bomb(marker), path, _use_new_zipfile_serialization=container != "legacy")
    message = refusal(capsys, f"run={path}")
    assert str(path) in message
    assert not marker.exists()
    # Control: unpickling the file without care does run the command.
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()


def test_files_that_are_no_checkpoints(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pt"
    assert "does not exist" in refusal(capsys, f"run={path}")
    whole = checkpoint.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(capsys, f"run={path}")
    path.write_text("not a checkpoint at all\n", encoding="utf-8")
    assert "not a checkpoint" in refusal(capsys, f"run={path}")
    torch.save({"weights": torch.zeros(3)}, path)
    assert "not written by mimpala" in refusal(capsys, f"run={path}")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert "holds no checkpoint" in refusal(capsys, f"run={tmp_path / 'empty'}")


def _put(*keys: str, value: Any) -> Damage:
    def damage(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_put("schema", value=99), "schema 99"),
        (_put("format", value="other"), "not written by mimpala"),
        (lambda content: content.pop("learner"), "lacks learner"),
        (_put("learner", value=[]), "damaged"),
        (_put("learner", "network", value={}), "damaged"),
        (_put("learner", "counters", "updates", value=None), "damaged"),
        (_put("config", value="none"), "does not hold a configuration"),
        (_put("config", "run", value="${oc.env:HOME}"), "interpolations"),
        (_put("config", "env", "name", value="nowhere"), "env.name=nowhere"),
        (_put("config", "core", "size", value=32), "damaged"),
        (_put("config", "fusion", "name", value="nothing"), "fusion=nothing"),
        (_put("env", "tasks", value=None), "damaged"),
        (_put("env", "suite", value="babyai"), "damaged"),
        (_put("env", "vocabulary", value=("", "?", "go")), "the vocabulary had 3 words and has 0"),
        (_put("env", "num_actions", value=9), "actions were 9 discrete ones and are 4 discrete ones"),
    ],
)
def test_checkpoints_of_other_content(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, message: str
) -> None:
    assert message in refusal(capsys, f"run={damaged(checkpoint, tmp_path / 'x.pt', damage)}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["episodes=0"], "episodes=0"),
        (["episodes=many"], "episodes"),
        (["epsiodes=1"], "epsiodes is not a key of the configuration: did you mean episodes"),
        (["tasks=[map-77]"], "tasks=map-77 is no task of suite conditional"),
        (["tasks=[map-0,map-0]"], "more than once"),
        (["engine=envpool"], "engine=envpool"),
        (["output=/proc/nowhere/x.json"], "cannot be written"),
        (["output=/tmp"], "cannot be written"),
    ],
)
def test_bad_arguments(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refusal(capsys, f"run={checkpoint}", *arguments)


def test_the_run_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert "run= is missing" in refusal(capsys)
