"""Runs with `context.encoder=table`: their checkpoints need the file no longer. Also the example that writes such a file."""

from __future__ import annotations

from pathlib import Path

import gym_tasks  # noqa: F401  (spawned actors find it on the same path)
import numpy as np
import pytest
import torch
import yaml
from saved_agents import evaluated
from tiny_runs import refusal, weights

import doctor
import mimpala
import train
from agents.storage.checkpoint import list_checkpoints
from conf.names import INSTRUCTION_ENCODERS
from examples import embed_sentences
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

LEFT, RIGHT = "Press the left key.", "Press the right key."


def arguments(run: Path, *more: str) -> list[str]:
    return [
        *("env=gymnasium", 'env.tasks=["gym_tasks:Spoken-v0"]', "env.vocabulary=[press,the,left,right,key,.]"),
        *("env.instruction_length=8", "context=instruction", f"run={run}", "runtime=serial", "torso.hidden=[16]"),
        *("fusion.size=16", "core.size=16", "context.instruction_size=8", "runtime.slots_per_actor=4"),
        *("learner.unroll_length=8", "precision=fp32", "display=false", "total_frames=100", *more),
    ]


def with_table(path: Path, *texts: str, features: int = 5) -> list[str]:
    np.savez(path, sentences=np.array(texts), vectors=np.random.default_rng(0).normal(size=(len(texts), features)))
    return ["context.encoder=table", f"context.table={path}"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["context.project=false", "runtime=local", "runtime.num_actors=1"]])
def test_checkpoints_and_exported_agents_need_the_file_no_longer(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = arguments(run, *with_table(tmp_path / "table.npz", LEFT, RIGHT, "Press the red key."), *options)
    assert train.main(given) == 0
    saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert saved["context"]["table_shape"] == [2, 5], "red is no word of the vocabulary"
    (tmp_path / "table.npz").unlink()
    before = weights(run)["context_encoder.table.vectors"]
    assert train.main([f"run={run}", "resume=true", "total_frames=500", "allow=[gym_tasks]"]) == 0
    assert torch.equal(weights(run)["context_encoder.table.vectors"], before)
    path = list_checkpoints(run / "checkpoints")[-1]
    content = evaluated(path, tmp_path / "out.json", "episodes=4", "slots=2", "allow=[gym_tasks]")
    assert content["tasks"]["gym_tasks:Spoken-v0"]["episodes"] == 4
    mimpala.export(run, tmp_path / "exported", allow=["gym_tasks"])
    observation = {"vector": np.zeros(2, np.float32)}
    loaded = [mimpala.load(source, allow=["gym_tasks"]) for source in (run, tmp_path / "exported")]
    assert loaded[0].act(observation, instruction=RIGHT) == loaded[1].act(observation, instruction=RIGHT)
    with pytest.raises(InputError, match='has no sentence "press the key"'):
        loaded[0].act(observation, instruction="Press the key")


@pytest.mark.parametrize(
    "runtime", [["runtime=serial"], ["runtime=local"], ["runtime=local", "runtime.inference=server"]]
)
def test_an_instruction_that_is_not_in_the_table_ends_the_run(
    runtime: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = with_table(tmp_path / "table.npz", LEFT, "press", "key")
    given = [*table, *runtime, "runtime.num_actors=1"]
    assert train.main(arguments(tmp_path / "run", *given)) == 2
    assert 'error: context.table has no sentence "press the right key ."' in capsys.readouterr().err
    assert train.main(arguments(tmp_path / "other", *given, "context.unseen=words")) == 0


def test_a_table_that_does_not_fit_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = with_table(tmp_path / "table.npz", LEFT, RIGHT)
    cases = {
        "context.table= does not fit context.encoder=table": ["context.encoder=table"],
        "does not fit context.encoder=gru": [*table, "context.encoder=gru"],
        "context=task has none": [*table, "context=task"],
        "missing.npz cannot be used (No such file": [*table, "context.table=missing.npz"],
        "needs the vectors of single words": [*table, "context.unseen=words"],
        "numbers in the vectors of 2 sentences": with_table(tmp_path / "wide.npz", LEFT, RIGHT, features=2**23 + 1),
    }
    for expected, options in cases.items():
        assert expected in refusal(capsys, *arguments(tmp_path / "run", *options)), expected


def test_a_strangers_run_without_a_checkpoint_does_not_open_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = tmp_path / "run", with_table(tmp_path / "table.npz", LEFT, RIGHT)
    assert train.main(arguments(run, *table)) == 0
    for path in list_checkpoints(run / "checkpoints"):
        path.unlink()
    resume = [f"run={run}", "resume=true", "allow=[gym_tasks]"]
    assert "context.table names" in refusal(capsys, *resume)
    assert train.main([*resume, f"allow=[gym_tasks,{tmp_path / 'table.npz'}]"]) == 0


@pytest.mark.slow
def test_the_doctor_reads_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(tmp_path / "run", *with_table(tmp_path / "table.npz", LEFT, RIGHT))
    assert doctor.main(given) == 0
    assert "cannot be used" not in capsys.readouterr().out
    assert doctor.main([*given, "context.table=missing.npz"]) == 1
    assert "context.table=missing.npz cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize("fusion", ["mi", "cross_attention"])
@pytest.mark.parametrize("encoder", sorted(set(INSTRUCTION_ENCODERS) - {"table"}))
def test_every_encoder_trains(encoder: str, fusion: str, tmp_path: Path) -> None:
    options = [f"context.encoder={encoder}", f"fusion={fusion}", "fusion.sites=[core_input,policy,value]"]
    assert train.main(arguments(tmp_path / "run", *options)) == 0
    assert any(name.startswith(f"context_encoder.instruction_{encoder}") for name in weights(tmp_path / "run"))


def test_the_example_writes_the_instructions_that_it_meets(tmp_path: Path) -> None:
    keys = [f"{key}" for key in arguments(tmp_path / "run") if key.startswith(("env", "context="))]
    path = tmp_path / "table.npz"
    embed_sentences.main([str(path), "steps=640", *keys], lambda texts: [[len(text), 1.0] for text in texts])
    with np.load(path) as content:
        texts = content["sentences"].tolist()
    assert sorted(texts) == sorted(
        ["press the left key .", "press the right key .", "press", "the", "left", "right", "key", "."]
    )
    table = ["context.encoder=table", f"context.table={path}", "context.unseen=words"]
    assert train.main(arguments(tmp_path / "run", *table)) == 0
