"""Slow runs report what limits them."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agents.run.timing
import train
from agents.acting.actor import Actor
from agents.learning.learner import Learner
from agents.run import checkpoint_saver
from agents.runtime.base import StreamPositions
from agents.setup import builder, machine
from agents.setup.builder import ActorFactory

pytestmark = pytest.mark.usefixtures("process_settings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowActors(ActorFactory):
    """Actors whose environment sleeps `env_sleep` seconds per step."""

    env_sleep: float = 0.0

    def __call__(self, index: int, positions: StreamPositions, network: Any, policy: Any = None) -> Actor:
        actor = ActorFactory.__call__(self, index, positions, network, policy)
        step = actor.env.step

        def slow_step(actions: Any) -> Any:
            time.sleep(self.env_sleep)
            return step(actions)

        actor.env.step = slow_step  # type: ignore[method-assign]
        return actor


TINY = [
    *("env=conditional", "env.tasks=[map-0,memory-1]", "context=task", "precision=fp32", "total_frames=300"),
    *(
        "runtime.slots_per_actor=8",
        "runtime.num_actors=1",
        "runtime.learner_threads=1",
        "learner.unroll_length=4",
        "core.size=16",
        "fusion.size=16",
    ),
    *("torso.hidden=[16]", "log_seconds=0.2", "display=false"),
]


def slowed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments, **options)

    return slow


def slow_env(patch: pytest.MonkeyPatch, cores: int = 2) -> None:
    """An unroll takes at least 400 ms, of which network and learner take a twentieth on an idle machine."""

    def make(**fields: Any) -> SlowActors:
        return SlowActors(env_sleep=0.1, **fields)

    patch.setattr(builder, "ActorFactory", make)
    patch.setattr(machine, "num_cores", lambda: cores)


def few_actors(patch: pytest.MonkeyPatch) -> None:
    slow_env(patch, cores=8)


def big_net(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "num_cores", lambda: 2)
    patch.setattr(Learner, "update", slowed(Learner.update, 0.4))


def slow_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "num_cores", lambda: 2)
    patch.setattr(checkpoint_saver, "save_checkpoint", slowed(lambda *arguments: None, 0.2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "slow", "arguments", "name", "sentence"),
    [
        ("local", slow_env, [], "environment", r"limited by the environment; try .*more cores"),
        ("local", big_net, [], "learner", r"limited by the learner; try .*core\.size=8"),
        ("local", few_actors, [], "actors", r"limited by the number of actors; try runtime\.num_actors=[2-7]"),
        (
            "local",
            slow_disk,
            ["checkpoint_seconds=0"],
            "disk",
            r"limited by the disk; try checkpoint_seconds=60, log_.*",
        ),
        ("serial", big_net, [], "learner", r"limited by the learner, .*; try runtime=local"),
    ],
)
def test_a_slow_run_reports_what_limits_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runtime: str,
    slow: Callable[[pytest.MonkeyPatch], None],
    arguments: list[str],
    name: str,
    sentence: str,
) -> None:
    slow(monkeypatch)
    # Few, long updates: the slow part must dominate on a busy machine, too.
    monkeypatch.setattr(agents.run.timing, "_WARM_UP_UPDATES", 4)
    run = tmp_path / "run"
    assert train.main([*TINY, f"runtime={runtime}", f"run={run}", *arguments]) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert re.fullmatch(sentence, result["limited_by"]), result
    assert result["limited_by"] in capsys.readouterr().out
    shares = result["time"]
    assert shares["learner"] + shares["wait"] + shares["disk"] == pytest.approx(1)
    assert 0.5 < shares["env"] + shares["inference"] + shares["actor_wait"] <= 1 + 1e-6
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["limited_by"] == name
    for row in rows:
        assert row["time/learner"] + row["time/wait"] + row["time/disk"] == pytest.approx(1)
        assert all(row[f"time/{share}"] >= 0 for share in shares)


def test_a_run_that_ends_in_its_warm_up_reports_that(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, "runtime=serial", f"run={run}", "total_frames=100"]) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["limited_by"].startswith("limited by its start; try a larger total_frames")
    assert result["time"] == {}
