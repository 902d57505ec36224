"""mimpala export: the folder, its model card, and what is refused when it is read."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from saved_agents import evaluated, make_checkpoint, write_sealed

import mimpala
from agents.evaluation.episodes import load_agent
from agents.storage.exported import ABOUT, CONFIG, MOST_HEADER_BYTES, VOCABULARY, WEIGHTS
from mimpala.hub import main
from tests.stress.hostile_checkpoints import flip, overwrite
from tests.stress.hostile_configs import hostile_yaml

pytestmark = pytest.mark.usefixtures("tests_keep_their_threads", "process_settings")

Change = Callable[[Path], object]


@pytest.fixture
def exported(checkpoint: Path, tmp_path: Path) -> Path:
    assert main([f"run={checkpoint}", f"output={tmp_path / 'agent'}"]) == 0
    return tmp_path / "agent"


def front_matter(card: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])
    return content


def refusal(folder: Path, **given: Any) -> str:
    with pytest.raises(mimpala.InputError) as refused:
        mimpala.load(folder, **given)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_exported_agent_is_the_agent(checkpoint: Path, exported: Path) -> None:
    ours, theirs = load_agent(checkpoint), load_agent(exported / WEIGHTS)
    assert (theirs.env, theirs.updates, theirs.frames) == (ours.env, ours.updates, ours.frames)
    assert theirs.weights.keys() == ours.weights.keys()
    assert all(torch.equal(theirs.weights[name], weight) for name, weight in ours.weights.items())
    agents = mimpala.load(checkpoint), mimpala.load(exported), mimpala.load(exported, which="best")
    vector = np.ones(ours.env.observation["vector"].shape, np.float32)
    assert len({agent.act(vector, task="map-1", greedy=True) for agent in agents}) == 1


def test_the_exported_configuration_names_no_folder_of_this_machine(checkpoint: Path, exported: Path) -> None:
    for name in (ABOUT, CONFIG, VOCABULARY, "README.md"):
        assert str(checkpoint.parent) not in (exported / name).read_text(encoding="utf-8")


def test_an_exported_agent_can_be_evaluated(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    one, other = (evaluated(run, tmp_path / f"{run.name}.json", "episodes=5") for run in (checkpoint, exported))
    assert one["tasks"] == other["tasks"]
    assert not list(exported.glob("events.*")), "the folder is no run, and has no trackers"


def test_the_card_has_the_scores_of_this_checkpoint_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run" / "checkpoints"
    run.mkdir(parents=True)
    (run / checkpoint.name).write_bytes(checkpoint.read_bytes())
    arguments = [f"run={run.parent}", f"output={tmp_path / 'agent'}"]
    assert main(arguments) == 0
    assert "has no scores" in capsys.readouterr().out
    assert "model-index" not in front_matter(tmp_path / "agent" / "README.md")

    found = evaluated(run.parent, run.parent / "evaluation.json", "episodes=5")
    (run.parent / "provenance.json").write_text(
        json.dumps({"command": ["train.py", "run=a b", "`x`\n"]}), encoding="utf-8"
    )
    (run.parent / "videos").mkdir()
    for name in ("map-0.mp4", "map-1.gif", "map-0.exe"):
        (run.parent / "videos" / name).write_bytes(b"video")
    (run.parent / "videos.json").write_text(json.dumps({"sha256": found["provenance"]["sha256"]}), encoding="utf-8")
    assert main(arguments) == 0
    assert "has no scores" not in capsys.readouterr().out
    card = (tmp_path / "agent" / "README.md").read_text(encoding="utf-8")
    row = found["tasks"]["map-0"]
    assert f"| map-0 | 5 | {row['mean']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}] |" in card
    assert "    python train.py 'run=a b' '`x` '\n" in card
    assert '<video controls src="videos/map-0.mp4"></video>' in card and "(videos/map-1.gif)" in card
    assert {path.name for path in (tmp_path / "agent" / "videos").iterdir()} == {"map-0.mp4", "map-1.gif"}
    assert (tmp_path / "agent" / "replay.mp4").read_bytes() == b"video"
    (index,) = front_matter(tmp_path / "agent" / "README.md")["model-index"]
    assert [result["dataset"]["name"] for result in index["results"]] == list(found["tasks"])
    assert index["results"][0]["metrics"][0]["value"].startswith(f"{row['mean']:.3f} [")

    found["provenance"]["sha256"] = "0" * 64
    (run.parent / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")
    (run.parent / "videos.json").write_text("{}", encoding="utf-8")
    assert main(arguments) == 0
    assert "has no scores" in capsys.readouterr().out
    assert not (tmp_path / "agent" / "videos").exists() and not (tmp_path / "agent" / "replay.mp4").exists()


def test_names_of_a_stranger_do_not_become_markup(tmp_path: Path) -> None:
    """The suite `gymnasium` takes options from the names of tasks."""
    task = 'CartPole-v1(x="|<script>`\\n# heading")'
    path = make_checkpoint(tmp_path, "env=gymnasium", "env.tasks=[CartPole-v1]", "context=none")
    content = torch.load(path, weights_only=True)
    content["env"]["tasks"] = content["config"]["env"]["tasks"] = [task]
    write_sealed(content, path)
    allowed = "allow=['|<script>`\n# heading']"
    assert main([f"run={path}", f"output={tmp_path / 'agent'}", allowed]) == 0
    card = (tmp_path / "agent" / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in card.split("---\n", 2)[2]
    assert not [line for line in card.splitlines() if line.startswith("# heading")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "run= is missing"),
        (["run=nothing"], "output= is missing"),
        (["run=nothing", "output=out"], "run=nothing does not exist"),
        (["run=nothing", "output=out", "format=onnx"], "format is not a key of the configuration"),
    ],
)
def test_mistakes_are_refused(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {sentence}") and message.count("\n") == 1


def test_a_folder_with_other_files_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    assert main([f"run={checkpoint}", f"output={tmp_path}"]) == 2
    assert "holds files that are no exported agent" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def rewrite(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        change(content)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return apply


def reweigh(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        change(weights)
        safetensors.torch.save_file(weights, folder / WEIGHTS)

    return apply


def with_header(header: bytes, length: int | None = None) -> Change:
    content = struct.pack("<Q", len(header) if length is None else length) + header
    return lambda folder: (folder / WEIGHTS).write_bytes(content + bytes(64))


def spoil(weights: dict[str, torch.Tensor]) -> None:
    weights["policy.bias"][0] = torch.nan


def replace_by_pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def name_module(folder: Path) -> None:
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    path = make_checkpoint(folder.parent / "gym", "env=gymnasium", "env.tasks=[CartPole-v1]", "context=none")
    assert main([f"run={path}", f"output={folder.parent / 'other'}"]) == 0
    for name in (WEIGHTS, ABOUT, VOCABULARY, CONFIG):
        (folder / name).write_bytes((folder.parent / "other" / name).read_bytes())
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    config["env"]["wrappers"] = ["hostile_module:Wrapper"]
    (folder / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")


HUGE = b'{"policy.bias":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,64]}}'
OUTSIDE = b'{"policy.bias":{"dtype":"F32","shape":[16],"data_offsets":[0,100000000000]}}'


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / ABOUT).unlink(), "config.json is missing"),
        (lambda folder: (folder / VOCABULARY).write_text("["), "vocabulary.json is missing or holds no JSON object"),
        (lambda folder: (folder / CONFIG).unlink(), "config.yaml cannot be read"),
        (lambda folder: (folder / CONFIG).write_text("a: &x 1\nb: *x"), "anchors and aliases are not read"),
        (lambda folder: (folder / CONFIG).write_text("env: !!python/name:os.system"), "tags (!) are not read"),
        (rewrite(ABOUT, lambda content: content.update(schema=2)), "describes no agent that this version"),
        (rewrite(ABOUT, lambda content: content.update(updates=-1)), "a count at updates"),
        (rewrite(ABOUT, lambda content: content.update(steps=10**400)), "an integer of more than 64 bits"),
        (rewrite(ABOUT, lambda content: content["env"].update(num_actions="4")), "a length at env num_actions"),
        (rewrite(ABOUT, lambda content: content["env"].update(suite="babyai")), "its tasks are of suite babyai"),
        (rewrite(VOCABULARY, lambda content: content.update(words=[1])), "at words"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is damaged or crafted"),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]), "is damaged or crafted"),
        (with_header(b"{}", 2**63), "its header is too long"),
        (with_header(b"{" + b" " * (MOST_HEADER_BYTES + 1) + b"}"), "its header is too long"),
        (with_header(HUGE), "is damaged or crafted"),
        (with_header(OUTSIDE), "is damaged or crafted"),
        (with_header(b"{"), "is damaged or crafted"),
        (replace_by_pipe, "no ordinary file"),
        (reweigh(spoil), "a tensor of finite numbers at learner network policy.bias"),
        (reweigh(lambda weights: weights.pop("policy.bias")), "its weights are those of another configuration"),
        (
            reweigh(lambda weights: weights.update(more=torch.zeros(1))),
            "its weights are those of another configuration",
        ),
        (
            reweigh(lambda weights: weights.update({"policy.bias": torch.zeros(16, dtype=torch.complex64)})),
            "is of type torch.complex64",
        ),
        (name_module, "env.wrappers names hostile_module, which is a module that would be imported"),
    ],
)
def test_damaged_and_hostile_exports_are_refused(exported: Path, change: Change, sentence: str) -> None:
    change(exported)
    assert sentence in refusal(exported)


def test_random_damage_is_loaded_or_refused(exported: Path) -> None:
    rng, weights, config = random.Random(0), (exported / WEIGHTS).read_bytes(), (exported / CONFIG).read_text("utf-8")
    canary = exported / "canary"
    outcomes = set()
    for number in range(60):
        (exported / WEIGHTS).write_bytes(
            weights if number % 3 else rng.choice([flip, overwrite])(bytearray(weights), rng)
        )
        (exported / CONFIG).write_bytes(config.encode() if number % 3 == 0 else hostile_yaml(config, canary, rng))
        try:
            mimpala.load(exported)
            outcomes.add("loaded")
        except mimpala.InputError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"} and not canary.exists()
