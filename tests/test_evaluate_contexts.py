"""Training leaves contexts out, and evaluation plays seen and unseen ones apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regions import names_of
from saved_agents import evaluated, make_checkpoint
from tiny_runs import TINY, refusal

import evaluate
import train
from agents.evaluation.during_training import play_checkpoint
from agents.evaluation.episodes import SavedAgent, evaluation_spec, load_agent, make_task_env
from agents.learning.prefetch import Prefetcher
from agents.trajectory import Trajectory
from conf.loading import load_train
from envs.seeding import episode_seed
from envs.spec import Split
from envs.suites import held_out

pytestmark = pytest.mark.usefixtures("tests_keep_their_threads")

BLEND = ["env=conditional", "env.tasks=[blend]", "context=vector", "env.holdout_fraction=0.34"]
LEFT_OUT = ("0+2", "1+3")


@pytest.fixture(scope="module")
def blend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small untrained agent whose training leaves two regions of weights out."""
    return make_checkpoint(tmp_path_factory.mktemp("blend"), *BLEND)


def test_both_groups_are_played_and_compared(blend: Path, tmp_path: Path) -> None:
    found = evaluated(blend, tmp_path / "out.json", "episodes=60")
    seen, unseen = found["tasks"]["blend-4"], found["unseen"]["tasks"]["blend-4"]
    assert found["provenance"]["contexts"] == "both" and found["unseen"]["contexts"] == list(LEFT_OUT)
    assert found["unseen"]["without"] == []
    for slot in (0, 59):
        assert seen["seeds"][slot] == episode_seed(0, Split.EVALUATION, "blend-4", slot, 0)
        assert unseen["seeds"][slot] == episode_seed(0, Split.UNSEEN, "blend-4", slot, 0)
    for row, played in (
        (seen, seen),
        (unseen, unseen),
        (found["aggregate"], seen),
        (found["unseen"]["aggregate"], unseen),
    ):
        assert row["mean"] == pytest.approx(np.mean(played["returns"]))
        low, high = row["success_interval"]
        assert low < row["success"] < high
    low, high = unseen["success_drop_interval"]
    assert (
        unseen["success_drop"] == pytest.approx(seen["success"] - unseen["success"])
        and low < unseen["success_drop"] < high
    )


def test_one_group_is_that_part_of_both(blend: Path, tmp_path: Path) -> None:
    both = evaluated(blend, tmp_path / "both.json", "episodes=20")
    seen, unseen = (
        evaluated(blend, tmp_path / f"{group}.json", "episodes=20", f"contexts={group}") for group in ("seen", "unseen")
    )
    assert seen["tasks"] == both["tasks"] and "unseen" not in seen and "unseen" not in unseen
    row = both["unseen"]["tasks"]["blend-4"]
    assert unseen["tasks"]["blend-4"] == {key: value for key, value in row.items() if "drop" not in key}
    assert unseen["tasks"]["blend-4"]["returns"] != seen["tasks"]["blend-4"]["returns"]


def contexts(agent: SavedAgent, task: str, split: Split) -> np.ndarray:
    spec = evaluation_spec(agent, [task], "")
    env = make_task_env(agent, spec, task, 300, 0, split)
    return np.array(env.reset()[0]["context"])


@pytest.mark.parametrize("task", ["blend-4", "blend-3"])
def test_evaluation_has_the_groups_of_the_training_on_other_tasks_too(blend: Path, task: str) -> None:
    """A draw for blend-3 alone would be another one."""
    agent = load_agent(blend)
    assert held_out(agent.config.env) == LEFT_OUT
    assert not set().union(*names_of(contexts(agent, task, Split.EVALUATION))) & set(LEFT_OUT)
    assert all(names & set(LEFT_OUT) for names in names_of(contexts(agent, task, Split.UNSEEN)))


def test_tasks_without_unseen_contexts_are_listed(
    blend: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(blend, tmp_path / "out.json", "episodes=4", "tasks=[map-0,blend]")
    assert found["unseen"]["without"] == ["map-0"] and list(found["unseen"]["tasks"]) == ["blend-4"]
    assert found["unseen"]["aggregate"]["tasks"] == 1 and found["aggregate"]["tasks"] == 2
    assert "No episode of map-0 has one of the contexts that training left out." in capsys.readouterr().out


def test_groups_are_refused_where_training_left_nothing_out(
    blend: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for group in ("seen", "unseen"):
        assert evaluate.main([f"run={checkpoint}", f"contexts={group}"]) == 2
        assert f"contexts={group} needs an agent whose training left contexts out" in capsys.readouterr().err
    assert evaluate.main([f"run={blend}", "contexts=unseen", "tasks=[map-0,blend]"]) == 2
    assert "tasks=map-0 has no weights of env.holdout" in capsys.readouterr().err


def test_probes_play_the_group(blend: Path, tmp_path: Path) -> None:
    found = evaluated(blend, tmp_path / "out.json", "episodes=12", "contexts=unseen", "probe=all", "similarity=false")
    assert set(found["probes"]) == {"swap", "shuffle", "zero"}
    assert found["probes"]["zero"]["tasks"]["blend-4"]["seeds"] == found["tasks"]["blend-4"]["seeds"]


def test_another_group_keeps_the_earlier_evaluation(blend: Path, tmp_path: Path) -> None:
    evaluated(blend, tmp_path / "out.json", "episodes=4")
    evaluated(blend, tmp_path / "out.json", "episodes=4", "contexts=seen")
    assert len(list(tmp_path.glob("out*.json"))) == 2


def test_evaluations_during_training_have_both_groups(blend: Path, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    class Pipe:
        send = sent.append

    play_checkpoint(Pipe(), str(blend), 10, ())  # type: ignore[arg-type]
    alone = evaluated(blend, tmp_path / "out.json", "episodes=10")
    (content,) = json.loads(json.dumps(sent))
    assert content["unseen"]["aggregate"] == alone["unseen"]["aggregate"]
    assert set(content["unseen"]["tasks"]["blend-4"]) < set(alone["unseen"]["tasks"]["blend-4"])


def train_and_count(monkeypatch: pytest.MonkeyPatch, run: Path, frames: int, *arguments: str) -> tuple[int, set[str]]:
    """Number of the steps that the learner got, each an episode, and the names of the regions in which their weights were."""
    found, steps, send = set[str](), 0, Prefetcher._send

    def recorded(self: Prefetcher, batch: Trajectory, num_new: int | None) -> Any:
        nonlocal steps
        names = names_of(batch["context"][:-1][batch["mask"]].numpy())
        steps += len(names)
        found.update(*names)
        return send(self, batch, num_new)

    monkeypatch.setattr(Prefetcher, "_send", recorded)
    assert train.main([*TINY, *BLEND, f"run={run}", f"total_frames={frames}", *arguments]) == 0
    return steps, found


def test_training_has_no_left_out_context_and_resuming_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    steps, found = train_and_count(monkeypatch, run, 1000)
    assert steps >= 1000 and found == {"0", "1", "2", "3", "0+1", "0+3", "1+2", "2+3"}
    capsys.readouterr()
    assert "resume=true cannot change env.holdout_fraction" in refusal(
        capsys, f"run={run}", "resume=true", "env.holdout_fraction=0.2"
    )
    steps, found = train_and_count(monkeypatch, run, 1600, "resume=true")
    assert steps >= 500 and not found & set(LEFT_OUT)
    assert held_out(load_train(run / "config.yaml").env) == LEFT_OUT


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "frames"), [("serial", 100_000), ("local", 5_000)])
def test_many_episodes_of_training_have_no_left_out_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str, frames: int, process_settings: None
) -> None:
    arguments = [f"runtime={runtime}", "runtime.num_actors=1", "runtime.slots_per_actor=256", "checkpoint_seconds=1000"]
    steps, found = train_and_count(monkeypatch, tmp_path / "run", frames, *arguments)
    assert steps >= frames and len(found) == 8 and not found & set(LEFT_OUT)
