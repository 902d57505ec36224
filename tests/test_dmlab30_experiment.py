"""The experiments on DMLab-30 from the command line to the table of scores, on the fake engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluate
import train
from agents.builder import build_network
from conf.loading import compose_train
from envs import dmlab30
from envs.dmlab30_levels import LEVELS
from envs.gymnasium_engine import GymnasiumEngine
from envs.suites import make_spec

pytestmark = pytest.mark.usefixtures("process_settings")

EXPERIMENTS = ("dmlab30_impala", "dmlab30_popart", "dmlab30_mi")
# All 30 levels with one slot each in this process, tiny pictures and layers, and long steps, so that episodes end.
TINY = [
    *("runtime=serial", "runtime.num_actors=1", "runtime.slots_per_actor=30", "learner.batch_size=30"),
    *("learner.unroll_length=4", "env.width=32", "env.height=24", "env.action_repeat=180", "env.dataset_path=dummy"),
    *("fusion.size=8", "core.size=8", "torso.size=8", "context.instruction_size=4", "context.word_size=4"),
    *("log_seconds=0", "display=false"),
]
FRAMES_OF_AN_UPDATE = 30 * 4 * 180


def test_all_levels_train_and_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Thirty processes would take longer to begin than the run.
    monkeypatch.setattr(dmlab30, "ENGINE", GymnasiumEngine)
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
    """Of the network by its number of parameters, which are 1.6 million with IMPALA's fusion and no context but words."""
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


def test_the_fusion_of_an_experiment_can_be_another() -> None:
    assert compose_train(["experiment=dmlab30_mi", "fusion=film"]).fusion.name == "film"
