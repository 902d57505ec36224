"""resume=true: on another runtime, from a damaged folder, on another machine, and refused with a reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_agents import CONDITIONAL, SMALL, write_sealed

import evaluate
import train
from agents.acting.actor import Actor
from agents.run.metrics import Statistics
from agents.run.run_state import ResumeState, restore
from agents.runtime.base import StreamPositions
from agents.runtime.serial import SerialRuntime
from agents.setup import builder
from agents.setup.plan import make_plan
from agents.storage.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from agents.trajectory import Trajectory
from conf.loading import load_train
from envs.suites import make_spec
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

SLOTS = 3
TINY = [
    *(*SMALL, *CONDITIONAL, f"runtime.slots_per_actor={SLOTS}", "learner.unroll_length=5"),
    *("log_seconds=0", "checkpoint_seconds=0", "display=false"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a serial run with two actors, which tests must not change."""
    folder = tmp_path_factory.mktemp("run")
    assert train.main([*TINY, f"run={folder}", "total_frames=100", "runtime.num_actors=2"]) == 0
    return folder


def updates(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["updates"] for line in lines]


# Damage


def test_damaged_checkpoint_is_renamed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*TINY, f"run={tmp_path}", "total_frames=100"]) == 0
    found = list_checkpoints(tmp_path / "checkpoints")
    last = found[-1].read_bytes()
    found[-1].write_bytes(last[: len(last) // 2])
    flipped = bytearray(found[-2].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    found[-2].write_bytes(flipped)
    capsys.readouterr()

    told = f"{found[-1]} is truncated or not a checkpoint, {found[-2]} is damaged (its checksum is another): {found[-3]} is used"
    assert evaluate.main([f"run={tmp_path}", "episodes=1", "threads=1"]) == 0
    assert told in capsys.readouterr().err
    assert list_checkpoints(tmp_path / "checkpoints") == found, "an evaluation changes no checkpoint"

    assert train.main([f"run={tmp_path}", "resume=true", "total_frames=160"]) == 0
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert updates(tmp_path) == list(range(1, updates(tmp_path)[-1] + 1))
    # Damaged files are kept under another name, and are no longer checkpoints.
    aside = sorted((tmp_path / "checkpoints").glob("*.damaged"))
    assert [path.name for path in aside] == [f"{path.name}.damaged" for path in found[-2:]]
    assert train.main([f"run={tmp_path}", "resume=true", "total_frames=180"]) == 0
    assert capsys.readouterr().err == ""

    for path in list_checkpoints(tmp_path / "checkpoints"):
        path.write_bytes(b"")
    assert train.main([f"run={tmp_path}", "resume=true"]) == 2
    err = capsys.readouterr().err
    assert "no checkpoint is intact" in err and err.count("\n") == 1


def tampered(tree: dict[Any, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], dict[Any, Any]]]:
    """Copies of nested data in which one value is missing or has another type, each with the path of that value."""
    for key, branch in tree.items():
        rest = {k: v for k, v in tree.items() if k != key}
        yield (*path, key), rest
        for value in (None, "three", {"x": 1}, torch.zeros(2)):
            yield (*path, key), rest | {key: value}
        if isinstance(branch, dict):
            for where, changed in tampered(branch, (*path, key)):
                yield where, rest | {key: changed}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_incomplete_checkpoint_is_refused_in_one_sentence(run: Path) -> None:
    content = load_checkpoint(find_checkpoint(run, print))
    config = load_train(run / "config.yaml")
    env = make_spec(config.env)
    weights = {key: content["learner"][key] for key in ("network", "optimizer")}
    parts = {key: content[key] for key in ("positions", "statistics", "runtime")}
    parts |= {"learner": {key: value for key, value in content["learner"].items() if key not in weights}}
    taken = set()
    for where, changed in tampered(parts):
        whole = {key: value for key, value in content.items() if key not in parts} | changed
        if isinstance(changed.get("learner"), dict):
            whole["learner"] = weights | changed["learner"]
        network = builder.build_network(config, env)
        num_actors = make_plan(config, env).run.num_actors
        learner, positions, message = builder.build_learner(config, env, network), StreamPositions(), ""
        try:
            restored = restore(whole, config, env, learner, Statistics(env.tasks), positions, num_actors=num_actors)
            builder.build_runtime(config, env, network, positions, 0, restored.runtime).close()
            taken.add(where)
        except InputError as error:
            message = str(error)
        assert not message or (message.startswith("resume=true: the ") and "\n" not in message), where
    # Valid cases: older checkpoints lack these counters, an actor may not have played, and a state of other actors is ignored.
    expected = {("statistics", task, count) for task in env.tasks for count in ("updates", "interrupted", "surges")}
    expected |= {("learner", "popart", "calm"), ("learner", "popart", "updates")}
    expected |= {("positions", "episodes", actor) for actor in range(2)}
    assert taken == expected | {("runtime",), ("runtime", "actors"), ("positions", "unrolls")}


# Other runtimes, other machines


def played(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], list[int]]:
    """First and last episode from now on, by actor and slot."""
    episodes: dict[tuple[int, int], list[int]] = {}
    unroll = Actor.unroll
    seen: set[Actor] = set()

    def recording(self: Actor, out: Trajectory) -> None:
        first = [slot.episode for slot in self.env.slots]
        unroll(self, out)
        for column, last in enumerate(out["episode"].tolist()):
            numbers = episodes.setdefault((self.seed[1], column), [])
            if self not in seen:
                numbers.append(first[column])
                numbers.append(last)
            numbers[-1] = last
        seen.add(self)

    monkeypatch.setattr(Actor, "unroll", recording)
    return episodes


class Unfrozen(SerialRuntime):
    """Replaces the local runtime, whose actors have no state to save, without starting processes."""

    def state_dict(self) -> None:
        return None


def test_resume_on_another_runtime_continues_with_the_next_episode_of_every_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "LocalRuntime", Unfrozen)
    episodes = played(monkeypatch)
    frames = 0
    for runtime, actors in (("serial", 2), ("local", 2), ("local", 1), ("serial", 3), ("serial", 2)):
        frames += 120
        arguments = [f"total_frames={frames}", f"runtime.name={runtime}", f"runtime.num_actors={actors}"]
        assert train.main([*TINY, f"run={tmp_path}", "resume=true", *arguments]) == 0
        saved = load_checkpoint(find_checkpoint(tmp_path, print))["positions"]["episodes"]
        result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
        assert saved == {actor: [episodes[actor, column][-1] for column in range(SLOTS)] for actor in saved}
    # Each of the four resumes drops one episode per slot of the actors in its checkpoint.
    assert result["episodes_dropped"] == (2 + 2 + 2 + 3) * SLOTS
    assert len(episodes) == 3 * SLOTS
    # Of the five processes, actor 0 played in five, actor 1 in four and actor 2 in one.
    assert [len(episodes[actor, 0]) // 2 for actor in range(3)] == [5, 4, 1]
    for numbers in episodes.values():
        ends, begins = numbers[1::2], numbers[2::2]
        assert numbers[0] == 0 and begins == [end + 1 for end in ends[:-1]]


@pytest.mark.parametrize(("name", "actors", "dropped"), [("serial", 2, 0), ("serial", 1, 6), ("local", 2, 6)])
def test_interrupted_episodes_are_counted(run: Path, name: str, actors: int, dropped: int) -> None:
    config = load_train(run / "config.yaml")
    config.runtime.name, config.runtime.num_actors = name, actors
    env = make_spec(config.env)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    content = load_checkpoint(find_checkpoint(run, print))
    statistics = Statistics(env.tasks)
    restored = restore(content, config, env, learner, statistics, StreamPositions(), num_actors=actors)
    assert restored == ResumeState(content["seconds"], content["runtime"] if dropped == 0 else None, dropped)


def test_gpu_checkpoint_is_read_without_a_gpu(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = load_checkpoint(find_checkpoint(run, print))
    with monkeypatch.context() as patch:
        # The location tag that torch stores with a tensor on a GPU.
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = write_sealed(copy.deepcopy(content), tmp_path / "gpu.pt")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    found = load_checkpoint(path)
    torch.testing.assert_close(found["learner"], content["learner"], rtol=0, atol=0)


def test_keys_that_cannot_change_are_listed_line_by_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([f"run={run}", "resume=true", "seed=4", "core.size=17", "learner.discounting=0.5"]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: resume=true cannot change 3 keys: leave them out, or start another run."
    assert sorted(lines) == [
        "  core.size=17 (the run has 16)",
        "  learner.discounting=0.5 (the run has 0.99)",
        "  seed=4 (the run has 0)",
    ]


# Runs of earlier versions


def test_resumed_run_keeps_the_optimizer_of_its_earlier_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line is unchanged, but its preset now sets another optimiser."""
    command = ["experiment=impala", *TINY, "fusion=concat", "torso.size=16", "learner.batch_size=3"]
    old, whole = tmp_path / "old", tmp_path / "whole"
    then = [*command, "learner.optimizer=rmsprop"]
    assert train.main([*then, f"run={old}", "total_frames=60"]) == 0
    assert "new runs" not in capsys.readouterr().err
    assert train.main([*command, f"run={old}", "resume=true", "total_frames=120"]) == 0
    told = "resume=true keeps learner.optimizer=rmsprop of this run: new runs have rmsprop_tf.\n"
    assert capsys.readouterr().err == told
    assert load_train(old / "config.yaml").learner.optimizer == "rmsprop"
    assert train.main([*then, f"run={whole}", "total_frames=60"]) == 0
    assert train.main([*then, f"run={whole}", "resume=true", "total_frames=120"]) == 0
    weights = [load_checkpoint(find_checkpoint(run, print))["learner"] for run in (old, whole)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert all(kept.keys() == {"step", "square_avg"} for kept in weights[0]["optimizer"]["state"].values())


def test_explicit_change_of_the_optimizer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["experiment=impala", *TINY, "fusion=concat", "torso.size=16", "learner.batch_size=3", f"run={tmp_path}"]
    assert train.main([*command, "total_frames=60", "learner.optimizer=rmsprop"]) == 0
    capsys.readouterr()
    assert train.main([*command, "total_frames=120", "resume=true", "learner.optimizer=rmsprop_tf"]) == 2
    err = capsys.readouterr().err
    assert "cannot change learner.optimizer=rmsprop_tf (the run has rmsprop)" in err and err.count("\n") == 1
    # An optimiser that no preset had is refused too.
    for other in ("adam", "rmsprop"):
        run = tmp_path / other
        assert train.main([*command, "total_frames=60", f"learner.optimizer={other}", f"run={run}"]) == 0
    assert train.main([*command, "total_frames=120", "resume=true", f"run={tmp_path / 'adam'}"]) == 2
    assert "cannot change learner.optimizer=rmsprop_tf (the run has adam)" in capsys.readouterr().err


@pytest.mark.parametrize(("lambda_", "form"), [(0.9, "paper"), (1.0, "mixed")])
def test_run_from_before_the_mixed_bootstrap_keeps_its_form(tmp_path: Path, lambda_: float, form: str) -> None:
    command = [*TINY, f"learner.lambda_={lambda_}"]
    old, whole, new = (tmp_path / name for name in ("old", "whole", "new"))
    for run in (old, whole):
        then = [*command, "learner.pg_bootstrap=paper", f"run={run}"]
        assert train.main([*then, "total_frames=60"]) == 0
    saved = (old / "config.yaml").read_text(encoding="utf-8")
    assert saved.count("  pg_bootstrap: paper\n") == 1
    (old / "config.yaml").write_text(saved.replace("  pg_bootstrap: paper\n", ""), encoding="utf-8")
    assert train.main([*command, f"run={old}", "resume=true", "total_frames=120"]) == 0
    assert train.main([f"run={whole}", "resume=true", "total_frames=120"]) == 0
    assert load_train(old / "config.yaml").learner.pg_bootstrap == form
    weights = [load_checkpoint(find_checkpoint(run, print))["learner"] for run in (old, whole)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    # A new run uses the mixed form.
    assert train.main([*command, f"run={new}", "total_frames=60"]) == 0
    assert load_train(new / "config.yaml").learner.pg_bootstrap == "mixed"
