"""The DMLab-30 experiments from the command line to the table of scores, on the fake engine."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import doctor
import evaluate
import train
from agents.setup.builder import build_network
from conf.loading import compose_train
from envs.dmlab30.levels import LEVELS
from envs.dmlab30.suite import PICTURES
from envs.suites import make_spec

pytestmark = pytest.mark.usefixtures("process_settings")

EXPERIMENTS = ("dmlab30_impala", "dmlab30_popart", "dmlab30_mi")
# All 30 levels with one slot each in this process, tiny pictures and layers, and long steps, so that episodes end.
TINY = [
    *("runtime=serial", "runtime.num_actors=1", "runtime.slots_per_actor=30", "learner.batch_size=30"),
    *(
        "learner.unroll_length=4",
        "env.width=32",
        "env.height=24",
        "env.action_repeat=180",
        "env.dataset_path=dummy",
        "env.processes=false",
    ),
    *("fusion.size=8", "core.size=8", "torso.size=8", "context.instruction_size=4", "context.word_size=4"),
    *("log_seconds=0", "display=false"),
]
FRAMES_OF_AN_UPDATE = 30 * 4 * 180


@pytest.mark.slow
def test_all_levels_train_and_evaluate(tmp_path: Path) -> None:
    run = tmp_path / "run"
    frames = 3 * FRAMES_OF_AN_UPDATE
    assert train.main(["experiment=dmlab30_mi", *TINY, f"run={run}", f"total_frames={frames}"]) == 0
    figures = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert figures["finished"] and list(figures["tasks"]) == list(LEVELS)
    shortest = figures["tasks"]["rooms_select_nonmatching_object"]
    assert shortest["episodes"] >= 2 and shortest["length"] == 720 / 180
    words = json.loads((run / "vocabulary.json").read_text(encoding="utf-8"))["words"]
    assert "saxophone" in words

    task = "rooms_collect_good_objects_train"
    assert evaluate.main([f"run={run}", "episodes=2", f"tasks=[{task}]", "threads=1"]) == 0
    row = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["tasks"][task]
    assert row["episodes"] == 2 and row["success"] is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_have_the_published_sizes(name: str) -> None:
    """Checks the number of parameters: 1.6 million with IMPALA's fusion and instructions as the only context."""
    config = compose_train([f"experiment={name}", "env.dataset_path=dummy"])
    spec = make_spec(config.env)
    assert spec.tasks == tuple(LEVELS) and spec.observation["image"].shape == (72, 96, 3)
    assert config.runtime.num_actors * config.runtime.slots_per_actor == 5 * len(spec.tasks)
    assert (config.learner.unroll_length, config.learner.batch_size) == (100, 32)
    assert config.learner.reward_transform == "soft_asymmetric"
    assert spec.num_actions == (15 if name == "dmlab30_popart" else 9)
    assert config.fusion.name == ("mi" if name == "dmlab30_mi" else "concat")
    network = build_network(config, spec)
    assert network.value_head.num_outputs == (30 if name == "dmlab30_popart" else 1)
    if name == "dmlab30_impala":
        # The 1,628,010 of the paper's network; our vocabulary for 1,000 buckets; and the linear layer of `concat`, after which
        # the LSTM reads 256 features instead of 330.
        words = (len(spec.vocabulary) - 1000) * 20
        concat = (266 + 64 + 1) * 256 + (256 - 330) * 4 * 256
        assert network.num_parameters == pytest.approx(1_628_010 + words + concat, abs=2_000)


def test_the_fusion_of_an_experiment_can_be_changed() -> None:
    assert compose_train(["experiment=dmlab30_mi", "fusion=film"]).fusion.name == "film"


ONE = [
    *("env=dmlab30", "env.tasks=[rooms_keys_doors_puzzle,psychlab_continuous_recognition]", "runtime=serial"),
    *("runtime.slots_per_actor=2", "learner.batch_size=2", "learner.unroll_length=4", "total_frames=1440"),
    *("env.width=32", "env.height=24", "env.action_repeat=180", "env.processes=false", "log_seconds=0"),
    *("fusion.size=8", "core.size=8", "torso.size=8", "context.instruction_size=4", "context.word_size=4"),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The data set, in a folder whose name a shell would split."""
    folder = tmp_path / "all the pictures"
    folder.mkdir()
    for number in range(1, PICTURES + 1):
        (folder / f"{number:04}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_the_command_printed_after_a_run_evaluates_it(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names every folder of the run. Without them the evaluation is refused, and the message lists all of them."""
    run, cache = tmp_path / "the run", tmp_path / "level cache"
    keys = [f"run={run}", f"env.level_cache={cache}", f"env.dataset_path={pictures}"]
    assert train.main([*ONE, *keys]) == 0
    (following,) = re.findall(r"^next: (.*)$", capsys.readouterr().out, re.MULTILINE)
    python, program, *arguments = shlex.split(following)
    assert (python, program) == ("python", "evaluate.py")
    assert evaluate.main([*arguments, "episodes=1", "slots=1"]) == 0
    capsys.readouterr()
    assert evaluate.main([f"run={run}", "episodes=1"]) == 2
    refused = capsys.readouterr().err
    assert str(cache) in refused and str(pictures) in refused
    (allow,) = re.findall(r"add (.*) to the command", refused)
    assert evaluate.main([f"run={run}", "episodes=1", "slots=1", *shlex.split(allow)]) == 0


def test_every_evaluation_command_in_the_guide_names_the_folders_of_its_run() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "dmlab.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"^    python (train|evaluate)\.py (.*)$", guide, re.MULTILINE)
    folders: list[str] = []
    evaluations = 0
    for program, arguments in commands:
        if program == "train":
            folders = re.findall(r"env\.(?:level_cache|dataset_path)=(\S+)", arguments)
            continue
        evaluations += 1
        (allowed,) = re.findall(r"allow=\[(.*?)\]", arguments) or [""]
        assert sorted(filter(None, allowed.split(","))) == sorted(folders), arguments
    assert evaluations >= 2


def test_an_evaluation_with_more_engines_than_fit_is_refused_with_a_number_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train.main([*ONE, "env.tasks=[rooms_watermaze,rooms_keys_doors_puzzle]", f"run={run}"]) == 0
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 1000 * 2**20)
    capsys.readouterr()
    assert evaluate.main([f"run={run}", "episodes=100"]) == 2
    said = capsys.readouterr().err
    assert "slots=64 environments of env=dmlab30 at a time: that takes 5,760 MiB" in said
    (fitting,) = re.findall(r"give (slots=\d+)\.", said)
    assert evaluate.main([f"run={run}", "episodes=12", fitting, "tasks=[rooms_watermaze]"]) == 0


def test_doctor_says_how_many_engines_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 4000 * 2**20)
    keys = ["env=dmlab30", "runtime=local", "runtime.num_actors=8", "runtime.slots_per_actor=4"]
    problems = doctor.check_run(compose_train(keys), keys)["problems"]
    assert len(problems) == 1 and "environments 8,320" in problems[0]
    assert "lower runtime.slots_per_actor=4 to 1 or runtime.num_actors=8 to" in problems[0]
