"""evaluate.py probe=...: what the slots of levels with instructions are told, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from saved_agents import evaluated, make_checkpoint
from torch import Tensor

import evaluate
from agents.acting.policy import Policy, context_rows
from agents.evaluation import intervals, probe_report
from agents.evaluation.episodes import evaluation_spec, load_agent
from agents.evaluation.probe_report import Probing
from conf.loading import compose_evaluate

LEVELS = "env.tasks=[BabyAI-GoToObjS4-v0,BabyAI-GoToRedBallNoDists-v0,MiniGrid-Fetch-5x5-N2-v0]"


pytestmark = pytest.mark.usefixtures("tests_keep_their_threads")


@pytest.fixture(scope="module")
def told_both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that is told numbers and words, in the engine that seeds every episode."""
    pytest.importorskip("minigrid")
    return make_checkpoint(tmp_path_factory.mktemp("both"), "env=babyai", LEVELS, "env.engine=minigrid", "context=both")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the figure, which takes a second, with few resamples, and with small samples of instructions."""
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    monkeypatch.setattr(probe_report, "MAX_SLOTS", 16)
    monkeypatch.setattr(Probing, "write_similarity", lambda *arguments: [])


Play = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of every step of one task: what is true [T, B, C], what was told [T, B, C], and the resets [T, B]."""


def spy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Play]]:
    """From now on every step of every policy is noted; the function that is returned gives the plays so far, in order."""
    steps: list[tuple[Policy, list[np.ndarray]]] = []
    act = Policy.act

    def spied(policy: Policy, inputs: dict[str, Tensor], told: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        true = context_rows(policy.network, inputs)
        step = [true, true if told is None else told, inputs["reset"].numpy()]
        steps.append((policy, [part.copy() for part in step]))
        return act(policy, inputs, told)

    def plays() -> list[Play]:
        by_policy = itertools.groupby(steps, key=lambda step: step[0])
        return [tuple(np.stack(part) for part in zip(*(row for _, row in play), strict=True)) for _, play in by_policy]  # type: ignore[misc]

    monkeypatch.setattr(Policy, "act", spied)
    return plays


@pytest.mark.parametrize("probe", ["swap", "shuffle"])
def test_what_an_agent_is_told_of_levels_with_instructions(
    told_both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    config = compose_evaluate([f"run={told_both}", "episodes=4", "slots=2", f"probe={probe}"])
    agent = load_agent(told_both)
    pools = Probing(agent, evaluation_spec(agent, [], ""), config).contexts
    spied = spy(monkeypatch)
    tasks = list(evaluated(told_both, tmp_path / "out.json", "episodes=4", "slots=2", f"probe={probe}")["tasks"])
    # First without, then with the probe, task by task.
    plays = spied()
    assert len(plays) == len(tasks) * 2
    for true, told, _ in plays[: len(tasks)]:
        np.testing.assert_array_equal(true, told)
    for index, (true, told, reset) in enumerate(plays[len(tasks) :]):
        assert (true[..., 0] == index).all()
        if probe == "swap":
            assert (told[..., 0] != index).all()
            assert (told[..., 1:] != true[..., 1:]).any(axis=-1).all()
            other = np.concatenate([pools[task] for task in tasks if task != tasks[index]])
            known = {row.tobytes() for row in other}
            assert all(row.tobytes() in known for row in told.reshape(-1, told.shape[-1]))
            changed = (told[1:] != told[:-1]).any(axis=-1)
            assert not (changed & ~reset[1:]).any()
            assert changed.any()
        else:
            # Each slot follows one other slot of the evaluation, of whatever task, step by step.
            for slot in range(told.shape[1]):
                streams = {
                    (number, place): stream[np.arange(len(told)) % len(stream), place]
                    for number, (stream, _, _) in enumerate(plays[: len(tasks)])
                    for place in range(stream.shape[1])
                }
                followed = [place for place, stream in streams.items() if np.array_equal(stream, told[:, slot])]
                assert followed
                assert followed != [(index, slot)]


def test_levels_of_an_untrained_kind_are_told_what_trained_ones_are(tmp_path: Path) -> None:
    """Of an agent that reads words alone; the level has fewer actions, whatever is said, and minigrid objects to the others."""
    pytest.importorskip("minigrid")
    path = make_checkpoint(tmp_path, "env=babyai", LEVELS, "env.engine=minigrid", "context=instruction")
    task = "MiniGrid-Dynamic-Obstacles-5x5-v0"
    agent = load_agent(path)
    config = compose_evaluate([f"run={path}", "probe=all"])
    probing = Probing(agent, evaluation_spec(agent, [task, "BabyAI-GoToObjS4-v0"], ""), config)
    np.testing.assert_array_equal(
        probing._others(task), np.concatenate([probing.contexts[trained] for trained in agent.env.tasks])
    )
    found = evaluated(path, tmp_path / "out.json", f"tasks=[{task},BabyAI-GoToObjS4-v0]", "episodes=2", "probe=all")
    assert all(next(iter(section["tasks"])) == task for section in found["probes"].values())


def test_one_slot_is_enough_for_a_swap_and_too_few_to_shuffle(
    told_both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, one = tmp_path / "out.json", ["tasks=[BabyAI-GoToObjS4-v0]", "episodes=1"]
    assert evaluate.main([f"run={told_both}", f"output={output}", *one, "probe=shuffle"]) == 2
    assert "probe=shuffle needs slots" in capsys.readouterr().err
    found = evaluated(told_both, output, *one, "probe=swap")
    assert found["probes"]["swap"]["aggregate"]["return_drop_interval"] is None


def test_a_single_level_with_several_instructions_swaps_them(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    levels = ["env.tasks=[MiniGrid-Fetch-5x5-N2-v0]", "env.engine=minigrid"]
    path = make_checkpoint(tmp_path, "env=babyai", *levels, "context=instruction")
    agent = load_agent(path)
    probing = Probing(agent, evaluation_spec(agent, [], ""), compose_evaluate([f"run={path}", "probe=swap"]))
    pool = probing._others("MiniGrid-Fetch-5x5-N2-v0")
    assert len(np.unique(pool, axis=0)) > 8
    # A level that says always the same leaves nothing to swap.
    levels = ["env.tasks=[BabyAI-GoToRedBallNoDists-v0]", "env.engine=minigrid"]
    path = make_checkpoint(tmp_path, "env=babyai", *levels, "context=instruction")
    assert evaluate.main([f"run={path}", "probe=swap"]) == 2
