"""After a change of a run's environments, resume and evaluation name the difference, both shapes, and the fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from saved_agents import CONDITIONAL, SMALL

import evaluate
import train
from agents.distributed.follower import initial_message, train_shard
from agents.evaluation.episodes import load_agent
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.setup.plan import make_plan
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from conf.loading import compose_train
from envs.spec import ArraySpec, EnvSpec
from envs.spec_changes import interface_changes, listed, other_versions, task_changes
from envs.suites import make_spec
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

BOX = spaces.Box(-1, 1, (4,), np.float32)


class Changing(gymnasium.Env[Any, Any]):
    """An environment of any spaces."""

    def __init__(self, shown: spaces.Space[Any], taken: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = shown, taken

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, {}


def register(shown: spaces.Space[Any], taken: spaces.Space[Any]) -> None:
    gymnasium.registry.pop("Changing-v0", None)
    gymnasium.register("Changing-v0", Changing, kwargs={"shown": shown, "taken": taken})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    register(BOX, spaces.Discrete(3))
    folder = tmp_path_factory.mktemp("changed") / "run"
    tiny = ["runtime.slots_per_actor=4", "learner.unroll_length=5", "learner.batch_size=4", "total_frames=40"]
    suite = ["env=gymnasium", "env.tasks=[Changing-v0]", "context=none", "fusion.sites=[]", "display=false"]
    assert train.main([*SMALL, *suite, *tiny, f"run={folder}"]) == 0
    yield folder
    gymnasium.registry.pop("Changing-v0", None)


CHANGES = {
    "shape": (
        spaces.Box(-1, 1, (5,), np.float32),
        spaces.Discrete(3),
        "observation vector was float32 [4] and is float32 [5]",
    ),
    "kind": (
        spaces.Box(0, 255, (64, 64, 3), np.uint8),
        spaces.Discrete(3),
        "observation image was not there and is uint8 [64, 64, 3]",
    ),
    "number": (BOX, spaces.Discrete(4), "actions were 3 discrete ones and are 4 discrete ones"),
    "action": (BOX, spaces.MultiDiscrete([2, 3]), "actions were 3 discrete ones and are multi-discrete [2, 3]"),
}


@pytest.mark.parametrize(("shown", "taken", "message"), CHANGES.values(), ids=CHANGES)
def test_both_shapes_are_named(
    run: Path, shown: Any, taken: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register(shown, taken)
    for program, arguments in ((train, ["resume=true", "total_frames=80"]), (evaluate, ["episodes=1"])):
        capsys.readouterr()
        assert program.main([f"run={run}", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error and "install what" in error


def test_changed_tasks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*SMALL, *CONDITIONAL, "runtime.slots_per_actor=4", "learner.unroll_length=5", "display=false"]
    assert train.main([*tiny, f"run={tmp_path}", "total_frames=50"]) == 0
    path = max((tmp_path / "checkpoints").iterdir())
    content = load_checkpoint(path)
    content["env"]["tasks"] = ("map-0", "memory-0", "map-1")
    content["versions"] |= {"numpy": "0.1", "torch": "0.2"}
    save_checkpoint(path.parent, content["learner"]["counters"]["updates"], content)
    capsys.readouterr()
    assert train.main([f"run={tmp_path}", "resume=true", "total_frames=100"]) == 2
    error = capsys.readouterr().err
    assert "task 1 was memory-0 and is map-1, in another order (" in error
    assert f"numpy 0.1 (now {np.__version__})" in error and "python" not in error


def test_weights_of_another_size_are_named(run: Path) -> None:
    agent = load_agent(max((run / "checkpoints").iterdir()))
    agent.config.core.size = 8
    with pytest.raises(
        InputError, match=r"its weights are those of another configuration: \S+ is \[.*\] and would be \["
    ):
        agent.network(agent.env)


def test_a_follower_on_another_node_names_its_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_train([*SMALL, *CONDITIONAL])
    env = make_spec(config.env)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    other = dataclasses.replace(env, num_actions=99)
    message = initial_message(config, other, make_plan(config, env), learner, StreamPositions())
    group: Any = SimpleNamespace(receive=lambda what: message, rank=1, size=2)
    with pytest.raises(
        InputError, match=r"learner 1 .* actions were 99 discrete ones and are \d+ discrete ones: install"
    ):
        train_shard(group)


SPEC = EnvSpec(
    suite="x",
    tasks=("a", "b"),
    observation={"vector": ArraySpec(shape=(4,), dtype="float32")},
    instruction_length=2,
    vocabulary=("<pad>", "<unk>", "go"),
    num_actions=3,
    action_counts=(3, 3),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": ("<pad>", "<unk>", "stop")}, "word 2 of the vocabulary was go and is stop"),
        ({"vocabulary": ("<pad>", "<unk>")}, "the vocabulary had 3 words and has 2"),
        ({"instruction_length": 5}, "instruction_length was 2 and is 5"),
        ({"image_kind": "pixels"}, "image_kind was none and is pixels"),
        ({"symbol_counts": (2, 3)}, "symbol_counts was [] and is [2, 3]"),
        ({"action_repeat": 4}, "action_repeat was 1 and is 4"),
        (
            {"action_low": (0.0,), "action_high": (1.0,)},
            "actions were 3 discrete ones and are continuous, from [0.0] to [1.0]",
        ),
        ({"observation": {}}, "observation vector was float32 [4] and is not there"),
        ({"observation": {"vector": ArraySpec(shape=(4,), dtype="uint8")}}, "vector was float32 [4] and is uint8 [4]"),
    ],
    ids=range(9),
)
def test_a_change_of_every_part_of_the_interface_is_described(changes: dict[str, Any], message: str) -> None:
    other = dataclasses.replace(SPEC, **changes)
    assert message in listed(interface_changes(SPEC, other)) and interface_changes(SPEC, SPEC) == []
    # Tasks, and fields that follow from them, are ignored.
    assert interface_changes(SPEC, dataclasses.replace(SPEC, tasks=("c",), action_counts=(1,), engine="e")) == []


def test_long_lists_are_cut() -> None:
    fewer = dataclasses.replace(SPEC, tasks=tuple("cdefg"), action_counts=(3,) * 5)
    assert task_changes(SPEC, fewer) == ["the number of tasks was 2 and is 5, without a, b and with c, d, e ..."]
    assert task_changes(SPEC, SPEC) == []
    assert listed(list("abcd")) == "a; b; c; and more" and listed(list("abc")) == "a; b; c"
    assert other_versions({"a": "1"}, {"a": "1", "b": "2"}) == ""
    assert other_versions({"a": "1", "b": "1"}, {"a": "2"}) == " (a 1 (now 2), b 1 (now none))"
