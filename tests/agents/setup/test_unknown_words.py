"""Instructions in which the agent knows no word are reported once per task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import deepmind_lab
import numpy as np
import pytest
import torch
from deepmind_lab import _levels
from saved_agents import evaluated

import train
from agents.setup.unknown_words import UnknownInstructions
from conf.loading import compose_train
from envs.babyai.suite import BabyAIConfig
from envs.dmlab30.config import DMLab30Config
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.instructions import has_only_unknown_words
from envs.suite import EnvConfig
from envs.suites import make_spec


def test_instruction_with_only_unknown_words_is_detected() -> None:
    tokens = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 2, 0], [2, 0, 0], [3, 2, 2]], np.int32)
    assert has_only_unknown_words(tokens).tolist() == [False, True, True, False, False, False]
    assert has_only_unknown_words(tokens.reshape(2, 3, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("config", "fix"),
    [
        (DMLab30Config(), ": add its words to env.words, from the start of a run."),
        (GymnasiumConfig(), ": add its words to env.vocabulary, from the start of a run."),
        (BabyAIConfig(), "other unknown instruction."),
    ],
)
def test_each_task_is_reported_once_with_the_fix(config: EnvConfig, fix: str) -> None:
    env = replace(make_spec(DMLab30Config()), tasks=("a", "b"))
    unknown = UnknownInstructions(config, env)
    batch = {"task": torch.tensor([[0, 1]]), "instruction": torch.tensor([[[2, 1], [0, 0]]], dtype=torch.int32)}
    assert unknown.find_new(batch) == []
    batch["instruction"][0, 1] = 1
    (sentence,) = unknown.find_new(batch)
    assert sentence.startswith(
        "warning: task b has an instruction in which the agent knows no word"
    ) and sentence.endswith(fix)
    batch["instruction"][0, 0] = 1
    assert [said[:15] for said in unknown.find_new(batch)] == ["warning: task a"]
    assert unknown.find_new(batch) == []


def test_suites_without_instructions_report_none() -> None:
    config = compose_train(["env=conditional", "context=task"]).env
    assert UnknownInstructions(config, make_spec(config)).find_new({}) == []


@pytest.mark.usefixtures("process_settings", "alone")
def test_train_and_evaluate_warn_of_a_level_with_unknown_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deepmind_lab.Lab, "observations", _with_words(deepmind_lab.Lab.observations))
    small = ["core.size=8", "fusion.size=8", "torso.size=8", "env.width=32", "env.height=24", "env.processes=false"]
    tiny = ["runtime=serial", "runtime.slots_per_actor=4", "learner.batch_size=4", "learner.unroll_length=4"]
    tasks = "env.tasks=[lt_chasm,rooms_select_nonmatching_object]"
    keys = ["env=dmlab30", tasks, "env.action_repeat=180", *small, *tiny, "log_seconds=0", "display=false"]
    assert train.main([*keys, f"run={tmp_path / 'run'}", f"total_frames={3 * 16 * 180}"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("has an instruction in which the agent knows no word") == 1
    assert "warning: task lt_chasm has an instruction" in printed and "env.words" in printed
    options = ["episodes=2", "tasks=[lt_chasm,rooms_select_nonmatching_object]", "threads=1"]
    evaluated(tmp_path / "run", tmp_path / "out.json", *options)
    assert (
        capsys.readouterr().err.count("warning: task lt_chasm has an instruction in which the agent knows no word") == 1
    )


def _with_words(observations):  # type: ignore[no-untyped-def]
    def seen(lab: deepmind_lab.Lab) -> dict[str, object]:
        found: dict[str, object] = observations(lab)
        level: _levels.Level = lab._level
        return found | ({"INSTR": "dax zup blicket"} if level.name == "lt_chasm" else {})

    return seen
