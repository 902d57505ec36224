"""evaluate.py probe=...: the episodes, contexts, report and figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_agents import CONDITIONAL, evaluated, make_checkpoint

import evaluate
import train
from agents.acting.policy import Policy
from agents.evaluation import intervals, probe_report
from agents.evaluation.episodes import Episode, evaluation_spec, load_agent, stream
from agents.evaluation.intervals import interval
from agents.evaluation.probe_report import Probing, drop
from agents.evaluation.probes import PROBES
from agents.evaluation.task_similarity import FILE
from conf.loading import compose_evaluate

pytestmark = pytest.mark.usefixtures("tests_keep_their_threads")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the figure, which takes a second, and with few resamples."""
    monkeypatch.setattr(intervals, "RESAMPLES", 199)
    monkeypatch.setattr(Probing, "write_similarity", lambda *arguments: [])


def board_images(folder: Path) -> dict[str, list[Any]]:
    """The images in the TensorBoard files of a run, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: events.Images(tag) for tag in events.Tags()["images"]}


# What comes of it


@pytest.mark.slow
@pytest.mark.usefixtures("process_settings")
def test_an_agent_that_learned_task_ids_loses_under_every_probe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    learning = ["env=conditional", "env.tasks=[map-0,map-1,map-2]", "fusion=mi", "runtime=serial", "display=false"]
    assert train.main([*learning, "total_frames=50000", f"run={folder}"]) == 0
    assert evaluate.main([f"run={folder}", "probe=all"]) == 0
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert content["aggregate"]["success"] > 0.7
    assert list(content["probes"]) == list(PROBES)
    for section in content["probes"].values():
        assert section["note"] is None
        assert section["aggregate"]["success_drop_interval"][0] > 0.2
        assert not section["aggregate"]["unchanged"]
    swap, shuffle = content["probes"]["swap"], content["probes"]["shuffle"]
    # With another task's context the actions are right for that task, and right here by chance (a quarter).
    assert swap["aggregate"]["success"] < 0.4
    assert all(row["success_drop_interval"][0] > 0.25 for row in swap["tasks"].values())
    # A third of the slots get their true context from the other slot.
    assert shuffle["aggregate"]["success_drop"] < swap["aggregate"]["success_drop"]
    printed = capsys.readouterr().out
    assert all(f"probe={name}: {told}" in printed for name, told in PROBES.items())
    row = swap["tasks"]["map-1"]
    low, high = row["success_drop_interval"]
    line = f"{row['success']:.1%}  {row['success_drop']:.1%}  {low:.1%} to {high:.1%}"
    assert [text for text in printed.splitlines() if text.startswith("map-1") and text.rstrip().endswith(line)]
    # The figure of its three embeddings.
    assert f"written: {folder / FILE}" in printed
    assert (folder / FILE).read_bytes().startswith(b"\x89PNG")
    (image,) = board_images(folder)["evaluation/task_similarity"]
    assert image.step == content["provenance"]["frames"] > 0
    assert (image.width, image.height) != (0, 0)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("agent", "note"),
    [
        (["context=none"], "no context"),
        (["fusion.sites=[]"], "no context"),
        (["fusion.sites=[value]"], "value head alone"),
    ],
)
def test_an_agent_that_does_not_act_on_a_context_loses_exactly_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], agent: list[str], note: str
) -> None:
    path = make_checkpoint(tmp_path, *CONDITIONAL, *agent)
    found = evaluated(path, tmp_path / "out.json", "episodes=70", "probe=all")
    assert 0 < found["aggregate"]["mean"] < 1
    for section in found["probes"].values():
        assert note in section["note"]
        for task, row in section["tasks"].items():
            assert {key: row[key] for key in found["tasks"][task]} == found["tasks"][task]
        for row in (*section["tasks"].values(), section["aggregate"]):
            assert row["unchanged"]
            assert row["return_drop"] == row["success_drop"] == 0
            assert row["return_drop_interval"] == row["success_drop_interval"] == [0, 0]
    assert capsys.readouterr().out.count(note) == 1


@pytest.mark.usefixtures("undrawn")
def test_probes_add_a_section_and_leave_the_evaluation_unchanged(checkpoint: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    plain = evaluated(checkpoint, first, "episodes=10")
    assert "probes" not in plain
    probed = evaluated(checkpoint, first, "episodes=10", "probe=all")
    evaluated(checkpoint, second, "episodes=10", "probe=all")
    assert first.read_bytes() == second.read_bytes()
    assert "NaN" not in first.read_text(encoding="utf-8")
    probes = probed.pop("probes")
    assert probed == plain
    for section in probes.values():
        assert list(section) == ["told", "note", "interval", "tasks", "aggregate"]
        assert section["tasks"].keys() == plain["tasks"].keys()
        drops = []
        for task, row in section["tasks"].items():
            assert plain["tasks"][task].keys() < row.keys()
            assert row["seeds"] == plain["tasks"][task]["seeds"]
            assert row["return_drop"] == pytest.approx(plain["tasks"][task]["mean"] - row["mean"])
            assert row["return_drop_interval"][0] <= row["return_drop"] <= row["return_drop_interval"][1]
            drops.append(row["return_drop"])
        assert section["aggregate"]["return_drop"] == pytest.approx(np.mean(drops))
    # One probe by itself plays as it does among all.
    alone = evaluated(checkpoint, first, "episodes=10", "probe=swap")["probes"]
    assert alone == {"swap": probes["swap"]}
    assert evaluated(checkpoint, second, "episodes=10", "probe=swap", "seed=1")["probes"] != alone


def test_drops_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.random(400) < 0.8).astype(float), (rng.random(300) < 0.3).astype(float)
    low, high = interval([before], [after]) or (np.nan, np.nan)
    value = before.mean() - after.mean()
    # The normal approximation is good here, and it adds the variances of two independent samples.
    error = 1.96 * np.sqrt(before.var() / 400 + after.var() / 300)
    assert (low, high) == (pytest.approx(value - error, abs=0.015), pytest.approx(value + error, abs=0.015))
    both = interval([before, before], [after, after]) or (np.nan, np.nan)
    assert both[1] - both[0] == pytest.approx((high - low) / np.sqrt(2), rel=0.15)
    low, high = interval([np.ones(3)], [np.zeros(3)], ranges=[(0, 1), (0, 1)]) or (np.nan, np.nan)
    assert low < 0.7 and high == 1
    assert interval([before], [after[:1]]) is None

    def episodes(successes: Any, length: int = 3) -> list[Episode]:
        return [Episode(None, 2 * success, length, success) for success in successes]

    row = drop({"a": episodes(before), "b": episodes([1, 1])}, {"a": episodes(after), "b": episodes([0, 1])}, {})
    assert row["success_drop"] == pytest.approx((value + 0.5) / 2)
    assert row["return_drop"] == pytest.approx(value + 0.5)
    assert not row["unchanged"]
    # What no suite knows has no drop.
    row = drop({"a": episodes([np.nan, np.nan])}, {"a": episodes([np.nan, np.nan])}, {})
    assert (row["success_drop"], row["success_drop_interval"]) == (None, None)
    # Equal episodes show that nothing changed, but not that nothing could change.
    same = episodes([0.0, 1.0])
    row = drop({"a": same}, {"a": list(same)}, {})
    assert row["unchanged"]
    assert row["return_drop_interval"] == pytest.approx((-1.8, 1.8), abs=0.1)
    assert drop({"a": same}, {"a": list(same)}, {}, certain=True)["return_drop_interval"] == (0, 0)
    other = drop({"a": same}, {"a": episodes([0.0, 1.0], 4)}, {}, certain=True)
    assert not other["unchanged"]
    assert other["return_drop_interval"] == row["return_drop_interval"]


def test_each_slot_has_another_source_and_each_task_another_seed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, ...]] = []
    monkeypatch.setattr(probe_report, "Swap", lambda others, instruction, seed: seeds.append(seed))
    # In place of a Shuffle, its sources.
    monkeypatch.setattr(probe_report, "Shuffle", lambda sources: sources)
    agent = load_agent(checkpoint)
    spec = evaluation_spec(agent, [], "")
    for seed in (0, 0, 1):
        probing = Probing(agent, spec, compose_evaluate([f"run={checkpoint}", "probe=all", "slots=3", f"seed={seed}"]))
        policies = [Policy(agent.network(agent.env), 3) for _ in spec.tasks]
        records, sources = [], []
        for task, policy in zip(spec.tasks, policies, strict=True):
            probing.prepare("swap", task)(policy)
            probing.prepare("shuffle", task)(policy)
            sources += policy.context_override  # type: ignore[operator]
            # The record of a task is the one that its evaluation without a probe fills.
            record = probing.record(task)
            assert record is not None
            record(policy)
            records.append(policy.context_override)
        taken = [(records.index(record), slot) for record, slot in sources]
        places = [(task, slot) for task in range(3) for slot in range(3)]
        assert sorted(taken) == places
        assert not [place for place, source in zip(places, taken, strict=True) if place == source]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6
    # Nor are they the stream that the actions come from.
    assert not set(seeds) & {stream(seed, task) for seed in (0, 1) for task in spec.tasks}


# What is drawn


@pytest.mark.parametrize("settings", [["context.task_encoding=one_hot"], ["context=none"], ["env.tasks=[map-0]"]])
def test_no_figure_without_a_learned_similarity(tmp_path: Path, settings: list[str]) -> None:
    path = make_checkpoint(tmp_path, *CONDITIONAL, *settings)
    evaluated(path, tmp_path / "out.json", "episodes=2", "probe=zero")
    assert not (path.parent / FILE.parent).exists()
    assert not list(tmp_path.rglob("*.png"))


# What is refused


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ([], ["probe=swop"], "probe=swop is unknown: choose one of swap, shuffle, zero, all."),
        (["env.tasks=[map-0]"], ["probe=swap"], "probe=swap has no other context for map-0"),
        (["env.tasks=[map-0]"], ["probe=all"], "probe=swap has no other context for map-0"),
        (["env.tasks=[map-0]"], ["probe=shuffle"], "probe=shuffle needs slots with different contexts"),
        ([], ["probe=shuffle", "tasks=[map-1]", "episodes=9"], "probe=shuffle needs slots with different contexts"),
    ],
)
def test_probes_that_would_give_the_true_context_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], arguments: list[str], message: str
) -> None:
    path = make_checkpoint(tmp_path, *CONDITIONAL, *settings)
    assert evaluate.main([f"run={path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))
