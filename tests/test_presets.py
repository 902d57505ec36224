"""The presets of conf/experiment have the settings that their comments state, and fit on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import conf
from agents.setup import builder, preflight
from agents.setup.plan import make_plan
from conf.loading import compose_train
from envs.babyai import levels
from envs.suites import SUITES, make_spec

ATARI57 = ["atari57_impala", "atari57_popart", "atari57_mi"]


@pytest.mark.parametrize("name", ATARI57)
def test_atari57_presets_fit_on_a_small_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    # One actor has to hold all games.
    monkeypatch.setattr("agents.setup.machine.num_cores", lambda: 1)
    config = compose_train([f"experiment={name}"])
    env = make_spec(config.env)
    assert len(env.tasks) == len(env.scores) == 57
    network = builder.build_network(config, env)
    preflight.check_fits(config, env, network)
    assert preflight.shared_memory(config, env, network, make_plan(config, env)) < 256 * 2**20


@pytest.mark.parametrize("name", ATARI57)
def test_atari57_presets_have_the_published_settings(name: str) -> None:
    config = compose_train([f"experiment={name}"])
    learner = config.learner
    # Espeholt et al. 2018, appendix G.
    assert (learner.unroll_length, learner.batch_size, learner.reduction) == (20, 32, "sum")
    assert (learner.optimizer, learner.learning_rate, learner.epsilon) == ("rmsprop_tf", 6e-4, 0.01)
    assert learner.anneal
    assert (learner.max_gradient_norm, learner.entropy_cost, learner.baseline_cost) == (40, 0.01, 0.5)
    assert (learner.discounting, learner.reward_clip) == (0.99, 1)
    assert (config.core.name, config.torso.name) == ("feedforward", "deep")
    assert (config.env.action_repeat, config.env.frame_stack) == (4, 4)  # type: ignore[attr-defined]
    assert config.env.episodic_life  # type: ignore[attr-defined]
    assert config.env.full_action_space  # type: ignore[attr-defined]
    assert config.total_frames == 57 * 200_000_000
    assert learner.popart == (name != "atari57_impala")
    assert learner.popart_step_size == 3e-4
    # Only the last preset has the game's number as context.
    told = config.context.name, config.fusion.sites
    assert told == (("task", ["core_input", "policy", "value"]) if name == "atari57_mi" else ("none", []))


PUBLISHED = {
    "experiment=impala": 0.1,
    **{f"experiment={name}": 0.01 for name in ATARI57},
    **{f"experiment=dmlab30_{name}": 0.1 for name in ("impala", "popart", "mi")},
    "env=atari": 0.01,
    "env=dmlab30": 0.1,
}


@pytest.mark.parametrize("choice", PUBLISHED)
def test_published_constants_come_with_the_published_optimizer(choice: str) -> None:
    learner = compose_train([choice]).learner
    assert (learner.optimizer, learner.epsilon, learner.rms_decay) == ("rmsprop_tf", PUBLISHED[choice], 0.99)


@pytest.mark.parametrize("choice", PUBLISHED)
def test_published_settings_keep_the_published_algorithm(choice: str) -> None:
    """One pass of V-trace's policy gradient with lambda 1, and no part that the papers lack."""
    learner = compose_train([choice]).learner
    assert (learner.loss, learner.passes, learner.lambda_, learner.normalize_advantage) == ("impala", 1, 1.0, "none")
    assert not learner.popart_warm and learner.entropy_final == -1


@pytest.mark.parametrize("suite", SUITES)
def test_few_frames_fits_every_suite(suite: str) -> None:
    learner = compose_train([f"env={suite}", "experiment=few_frames"]).learner
    assert (learner.loss, learner.passes, learner.optimizer) == ("appo", 4, "muon")


@pytest.mark.parametrize("suite", SUITES)
def test_memory_fits_every_suite(suite: str) -> None:
    learner = compose_train([f"env={suite}", "experiment=memory"]).learner
    assert (learner.optimizer, learner.learning_rate) == ("muon", 1e-3)


MT5 = ("DoorKey-6x6", "LavaGapS7", "RedBlueDoors-6x6", "DistShift1", "MemoryS11")
MOORE = {
    "mt3": ("LavaGapS7", "RedBlueDoors-6x6", "MemoryS11"),
    "mt5": MT5,
    "mt7": (
        *("DoorKey-6x6", "DistShift1", "RedBlueDoors-6x6", "LavaGapS7", "MemoryS11"),
        *("SimpleCrossingS9N2", "MultiRoom-N2-S4"),
    ),
    "tl3_5": ("DoorKey-6x6", "DistShift1"),
    "tl5_7": ("SimpleCrossingS9N2", "MultiRoom-N2-S4"),
}
"""Tasks in the order of run_minigrid_ppo_mt.py and run_minigrid_ppo_tl.py of AhmedMagdyHendawy/MOORE."""


@pytest.mark.parametrize("name", MOORE)
def test_minigrid_presets_have_the_published_tasks_and_budget(name: str) -> None:
    config = compose_train([f"experiment=minigrid_{name}"])
    assert config.env.tasks == [f"MiniGrid-{task}-v0" for task in MOORE[name]]
    # 100 epochs of 2,000 steps for each task, then 16 episodes of each.
    assert (config.total_frames, config.evaluate_episodes) == (100 * 2000 * len(MOORE[name]), 16)
    assert config.context.name == "task" and (config.learner.discounting, config.learner.lambda_) == (0.99, 0.95)


def test_transfers_have_the_network_of_their_source() -> None:
    for source, target in (("mt3", "tl3_5"), ("mt5", "tl5_7")):
        one, other = (compose_train([f"experiment=minigrid_{name}"]) for name in (source, target))
        assert (one.fusion, one.context, one.core, one.torso) == (other.fusion, other.context, other.core, other.torso)


def test_babyai_presets_are_levels_of_the_paper() -> None:
    ponti = compose_train(["experiment=ponti8"])
    # Section 3.1 of Ponti et al. 2022; PickUpLoc is registered as PickupLoc.
    assert ponti.env.tasks == list(levels.PRESETS["paper"][:8])
    assert ponti.stop_at == {"success": 0.99} and ponti.total_frames == compose_train([]).total_frames
    assert compose_train(["experiment=babyai19"]) == compose_train(["env.tasks=[paper]"])
    assert len(levels.PRESETS["paper"]) == 19


def test_no_preset_uses_torchs_rmsprop() -> None:
    files = list(Path(conf.__path__[0]).rglob("*.yaml"))
    assert files and not [path for path in files if "optimizer: rmsprop\n" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", ["impala", *ATARI57])
def test_command_line_overrides_presets(name: str) -> None:
    """A preset that sets `fusion.name` instead of choosing a group would override `fusion=film` silently."""
    config = compose_train([f"experiment={name}", "fusion=film", "context=task", "total_frames=7"])
    assert (config.fusion.name, config.context.name, config.total_frames) == ("film", "task", 7)
