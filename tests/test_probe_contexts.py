"""evaluate.py probe=...: the contexts that the slots of levels with instructions get, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from saved_agents import evaluated, make_checkpoint
from torch import Tensor

import evaluate
from agents.acting.policy import ModulationCache, Policy, context_rows
from agents.evaluation import intervals, probe_report
from agents.evaluation.episodes import evaluation_spec, load_agent
from agents.evaluation.probe_report import Probing
from conf.loading import compose_evaluate

LEVELS = "env.tasks=[BabyAI-GoToObjS4-v0,BabyAI-GoToRedBallNoDists-v0,MiniGrid-Fetch-5x5-N2-v0]"


pytestmark = pytest.mark.usefixtures("tests_keep_their_threads")


@pytest.fixture(scope="module")
def reads_both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent that reads task ids and instructions, in the engine that seeds every episode."""
    pytest.importorskip("minigrid")
    return make_checkpoint(tmp_path_factory.mktemp("both"), "env=babyai", LEVELS, "env.engine=minigrid", "context=both")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure, which takes a second; few resamples; small samples of instructions."""
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    monkeypatch.setattr(probe_report, "MAX_SLOTS", 16)
    monkeypatch.setattr(Probing, "write_similarity", lambda *arguments: [])


Play = tuple[np.ndarray, np.ndarray, np.ndarray]
"""All steps of one task: the true contexts [T, B, C], the contexts acted on [T, B, C], and the resets [T, B]."""


def spy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Play]]:
    """Records every step of every policy from now on. The returned function gives the plays so far, in order."""
    steps: list[tuple[Policy, list[np.ndarray]]] = []
    used: list[np.ndarray] = []
    act, look_up = Policy.act, ModulationCache.look_up

    def spied(policy: Policy, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        acted = act(policy, inputs)
        step = [context_rows(policy.network, inputs), used[-1], inputs["reset"].numpy()]
        steps.append((policy, [part.copy() for part in step]))
        return acted

    def spied_look_up(cache: ModulationCache, rows: np.ndarray, *arguments: object) -> object:
        used.append(rows.copy())
        return look_up(cache, rows, *arguments)  # type: ignore[arg-type]

    def plays() -> list[Play]:
        by_policy = itertools.groupby(steps, key=lambda step: step[0])
        return [tuple(np.stack(part) for part in zip(*(row for _, row in play), strict=True)) for _, play in by_policy]  # type: ignore[misc]

    monkeypatch.setattr(Policy, "act", spied)
    monkeypatch.setattr(ModulationCache, "look_up", spied_look_up)
    return plays


@pytest.mark.parametrize("probe", ["swap", "shuffle"])
def test_the_contexts_under_a_probe_come_from_other_slots_and_tasks(
    reads_both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    config = compose_evaluate([f"run={reads_both}", "episodes=4", "slots=2", f"probe={probe}"])
    agent = load_agent(reads_both)
    pools = Probing(agent, evaluation_spec(agent, [], ""), config).contexts
    spied = spy(monkeypatch)
    tasks = list(evaluated(reads_both, tmp_path / "out.json", "episodes=4", "slots=2", f"probe={probe}")["tasks"])
    # First all tasks without the probe, then all tasks with it.
    plays = spied()
    assert len(plays) == len(tasks) * 2
    for true, given, _ in plays[: len(tasks)]:
        np.testing.assert_array_equal(true, given)
    for index, (true, given, reset) in enumerate(plays[len(tasks) :]):
        assert (true[..., 0] == index).all()
        if probe == "swap":
            assert (given[..., 0] != index).all()
            assert (given[..., 1:] != true[..., 1:]).any(axis=-1).all()
            other = np.concatenate([pools[task] for task in tasks if task != tasks[index]])
            known = {row.tobytes() for row in other}
            assert all(row.tobytes() in known for row in given.reshape(-1, given.shape[-1]))
            changed = (given[1:] != given[:-1]).any(axis=-1)
            assert not (changed & ~reset[1:]).any()
            assert changed.any()
        else:
            # Each slot follows one other slot of the evaluation, of any task, step by step.
            for slot in range(given.shape[1]):
                streams = {
                    (number, place): stream[np.arange(len(given)) % len(stream), place]
                    for number, (stream, _, _) in enumerate(plays[: len(tasks)])
                    for place in range(stream.shape[1])
                }
                followed = [place for place, stream in streams.items() if np.array_equal(stream, given[:, slot])]
                assert followed
                assert followed != [(index, slot)]


def test_an_untrained_level_gets_contexts_of_trained_levels(tmp_path: Path) -> None:
    """The agent reads instructions only. The level has fewer actions, and minigrid raises for the others."""
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
    reads_both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, one = tmp_path / "out.json", ["tasks=[BabyAI-GoToObjS4-v0]", "episodes=1"]
    assert evaluate.main([f"run={reads_both}", f"output={output}", *one, "probe=shuffle"]) == 2
    assert "probe=shuffle needs slots" in capsys.readouterr().err
    found = evaluated(reads_both, output, *one, "probe=swap")
    assert found["probes"]["swap"]["aggregate"]["return_drop_interval"] is None


def test_a_single_level_with_several_instructions_swaps_them(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    levels = ["env.tasks=[MiniGrid-Fetch-5x5-N2-v0]", "env.engine=minigrid"]
    path = make_checkpoint(tmp_path, "env=babyai", *levels, "context=instruction")
    agent = load_agent(path)
    probing = Probing(agent, evaluation_spec(agent, [], ""), compose_evaluate([f"run={path}", "probe=swap"]))
    pool = probing._others("MiniGrid-Fetch-5x5-N2-v0")
    assert len(np.unique(pool, axis=0)) > 8
    # A level with a single instruction leaves nothing to swap.
    levels = ["env.tasks=[BabyAI-GoToRedBallNoDists-v0]", "env.engine=minigrid"]
    path = make_checkpoint(tmp_path, "env=babyai", *levels, "context=instruction")
    assert evaluate.main([f"run={path}", "probe=swap"]) == 2
